"""What all workers know about a model's limits: one JSON document in claude_limits."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

WINDOW_START = 10.0
"""The window before anything is known of the limits."""
FLIGHT_SLOT_S = 5.0
FLIGHT_MAX_S = 600.0
"""Seconds after which a call that nobody told the end of is forgotten: its process has died."""
BEGUN_MAX_S = 10.0
"""As long as that, and no longer, is known what was admitted when."""
BLIND_FLIGHT_S = 5.0
"""Seconds for which a call takes room in the window. The first calls may all have died with their
process, and then nobody learns anything from them: others must get their turn."""


class Cost(NamedTuple):
    """What a call takes of each limit."""

    requests: float
    input_tokens: float
    output_tokens: float

    @classmethod
    def sum(cls, costs: "Iterator[Cost]") -> "Cost":
        """The total of each."""
        totals = [sum(parts) for parts in zip(*costs, strict=True)]
        return cls(*totals) if totals else NOTHING


NOTHING = Cost(0, 0, 0)


class Caps(NamedTuple):
    """Upper bounds of settings on what is learned, per minute; None for no bound."""

    requests: float | None = None
    input_tokens: float | None = None
    output_tokens: float | None = None


@dataclass(slots=True)
class Bucket:
    """A token bucket that imitates Claude's."""

    limit: float | None = None
    """Per minute, as headers or settings said; None while neither did: then it bounds nothing."""
    level: float = 0.0
    """What is left; below zero if it is promised in advance."""
    most: float | None = None
    """What it holds when it is full, where headers show that it is less than a minute's worth."""
    shift: float = 0.0
    """All corrections by headers so far, so that none is made twice."""
    asked: float = 0.0
    """Mean of the estimates of answered calls."""
    used: float = 0.0
    """Mean of what these calls truly took."""

    @property
    def size(self) -> float:
        """What it holds when it is full."""
        return self.most or self.limit or math.inf

    def refill(self, seconds: float, *, factor: float) -> None:
        """Add what those seconds bring."""
        if self.limit is not None:
            self.add(seconds * factor * self.limit / 60)

    def add(self, amount: float) -> None:
        """Put something back, as far as the bucket holds it."""
        self.level += amount
        if self.limit is not None:
            self.level = min(self.level, self.size)

    def bound(self, limit: float) -> None:
        """Take another limit; it holds a minute's worth of that."""
        if limit != self.limit:
            self.limit, self.most = limit, None
            self.level = min(self.level, limit)


@dataclass(slots=True)
class LimitState:
    """The state of one model's limits. Times are seconds since 1970 by the database's clock."""

    requests: Bucket = field(default_factory=Bucket)
    input_tokens: Bucket = field(default_factory=Bucket)
    output_tokens: Bucket = field(default_factory=Bucket)
    at_s: float = 0.0
    """Up to when the buckets are filled."""
    answers: int = 0
    """Answered calls."""
    seen_at_s: float = 0.0
    """When the call was admitted whose headers were learned from last; 0 before the first."""
    factor: float = 1.0
    """Share of the limits that is used: lowered by faults, raised by answers."""
    cut_at_s: float = 0.0
    """When it was lowered last."""
    raised_at_s: float = 0.0
    """Up to when answers have raised it."""
    paused_until_s: float = 0.0
    """Nobody calls before that."""
    tail_s: float = 0.0
    """End of the queue of those who were told to come again later."""
    window: float = WINDOW_START
    """Calls that may be under way at once, or begin in a few seconds, while no limits are known."""
    faults: int = 0
    """Overloads and absences in a row."""
    open_until_s: float = 0.0
    """The breaker is open, and from then on half open; 0 if it is closed."""
    probe_until_s: float = 0.0
    """Someone tries whether Claude works again, and is waited for until then."""
    held: Cost = NOTHING
    """Room that is saved up for a large call, which small ones would never leave a chance."""
    held_until_s: float = 0.0
    """Until then, in case that it does not come."""
    next_hold_s: float = 0.0
    """Before that nothing is saved up again: small ones have as much time as large ones."""
    flight: dict[str, Cost] = field(default_factory=dict)
    """Calls under way, by when they were admitted (in slots of FLIGHT_SLOT_S)."""
    begun: dict[str, Cost] = field(default_factory=dict)
    """Calls of the last BEGUN_MAX_S seconds, under way or not, by the second in which they were admitted."""

    @property
    def buckets(self) -> tuple[Bucket, Bucket, Bucket]:
        """In the order of Cost."""
        return self.requests, self.input_tokens, self.output_tokens

    @property
    def in_flight(self) -> Cost:
        """What the calls under way take."""
        return Cost.sum(iter(self.flight.values()))

    def is_window_full(self, now_s: float) -> bool:
        """Whether somebody's answer should come first, as no limits are known yet."""
        oldest = now_s - BLIND_FLIGHT_S - FLIGHT_SLOT_S
        young = (cost.requests for slot, cost in self.flight.items() if float(slot) > oldest)
        return self.seen_at_s == 0 and sum(young) >= self.window

    @property
    def is_breaker_open(self) -> bool:
        """Open or half open."""
        return self.open_until_s > 0

    def advance(self, now_s: float, caps: Caps) -> None:
        """Fill the buckets up to now, within the bounds of settings, and forget lost calls."""
        for bucket, cap in zip(self.buckets, caps, strict=True):
            if cap is not None and (bucket.limit is None or bucket.limit > cap):
                if bucket.limit is None:
                    bucket.level = cap
                bucket.bound(cap)
            bucket.refill(max(0.0, now_s - self.at_s), factor=self.factor)
        self.at_s = max(now_s, self.at_s)
        oldest = now_s - FLIGHT_MAX_S
        self.flight = {
            slot: cost for slot, cost in self.flight.items() if float(slot) + FLIGHT_SLOT_S > oldest
        }
        self.begun = {
            second: cost
            for second, cost in self.begun.items()
            if float(second) > now_s - BEGUN_MAX_S
        }

    def take_off(self, at_s: float, cost: Cost) -> None:
        """Count a call as under way."""
        for calls, slot in ((self.flight, _slot(at_s)), (self.begun, str(int(at_s)))):
            calls[slot] = Cost.sum(iter((calls.get(slot, NOTHING), cost)))

    def begun_in_second(self, at_s: float) -> Cost:
        """What the calls took that were admitted in the same second so far."""
        return self.begun.get(str(int(at_s)), NOTHING)

    def begun_between(self, since_s: float, until_s: float) -> Cost:
        """What the calls took that were admitted in these seconds, the first and the last as a whole."""
        first, last = int(since_s), int(until_s)
        return Cost.sum(cost for second, cost in self.begun.items() if first <= int(second) <= last)

    def land(self, at_s: float, cost: Cost) -> None:
        """Count it so no more."""
        _take_out(self.flight, _slot(at_s), cost)

    def unmake(self, at_s: float, cost: Cost) -> None:
        """Know no more that it began: it was not made."""
        _take_out(self.begun, str(int(at_s)), cost)

    def to_json(self) -> dict[str, Any]:
        """As it is stored."""
        return asdict(self)

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "LimitState":
        """From what is stored. What only another version knows is left out."""
        known = {key: value for key, value in stored.items() if key in cls.__dataclass_fields__}
        for name in set(known) & set(Cost._fields):
            fields = Bucket.__dataclass_fields__
            known[name] = Bucket(**{key: known[name][key] for key in fields if key in known[name]})
        known["held"] = Cost(*stored.get("held", NOTHING))
        for name in ("flight", "begun"):
            known[name] = {slot: Cost(*cost) for slot, cost in stored.get(name, {}).items()}
        return cls(**known)


def _slot(at_s: float) -> str:
    """The slot's beginning."""
    return str(int(at_s - at_s % FLIGHT_SLOT_S))


def _take_out(calls: dict[str, Cost], slot: str, cost: Cost) -> None:
    """Take a call out of a slot, and the slot away with the last one."""
    before = calls.pop(slot, None)
    if before is not None and before.requests > cost.requests:
        left = (max(0.0, had - takes) for had, takes in zip(before, cost, strict=True))
        calls[slot] = Cost(*left)
