"""A simulated hour in a second: processes that share one LimitState, and a Claude that enforces limits.

Nothing here waits: a heap of events is worked off in the order of their times. The state goes
through JSON with each transaction, as in the record.
"""

import heapq
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import count
from random import Random

from services.core.rate_limits import SeenLimit, SeenLimits
from services.core.runs.limit_admission import Admission, ComeAgain, Demand, Go, decide
from services.core.runs.limit_learning import CallFault, LimitRules, Note, learn
from services.core.runs.limit_state import LimitState
from services.core.usage import Usage

START_S = 1_700_000_000.0
Limits = tuple[float, float, float]


@dataclass
class LimitedClaude:
    """Token buckets for requests, input tokens and output tokens."""

    limits: Limits
    counts_output_at_once: bool = True
    """Output counts when the call begins, otherwise when it ends."""
    burst_s: float = 60.0
    """Seconds of its limits that a full bucket holds."""
    remaining: list[float] = field(default_factory=list)
    at_s: float = START_S
    is_overloaded: bool = False

    def __post_init__(self) -> None:
        self.remaining = list(self.sizes)

    @property
    def sizes(self) -> list[float]:
        """What full buckets hold."""
        return [limit * self.burst_s / 60 for limit in self.limits]

    def set_limits(self, limits: Limits, *, now_s: float) -> None:
        """From now on other limits hold."""
        self._refill(now_s)
        self.limits = limits
        self.remaining = [
            min(left, limit) for left, limit in zip(self.remaining, limits, strict=True)
        ]

    def take(self, usage: Usage, *, now_s: float) -> float | None:
        """Begin a call; None, or seconds to wait if there is no room."""
        self._refill(now_s)
        output = usage.output_tokens if self.counts_output_at_once else 1
        costs = (1, usage.input_tokens, output)
        missing_s = [
            (min(cost, size) - left) * 60 / limit
            for cost, size, left, limit in zip(
                costs, self.sizes, self.remaining, self.limits, strict=True
            )
        ]
        wait_s = max(missing_s)
        if wait_s > 0:
            return max(1.0, wait_s)
        costs = (1, usage.input_tokens, usage.output_tokens if self.counts_output_at_once else 0)
        self.remaining = [left - cost for left, cost in zip(self.remaining, costs, strict=True)]
        return None

    def finish(self, usage: Usage, *, now_s: float) -> None:
        """End a call that was taken."""
        self._refill(now_s)
        if not self.counts_output_at_once:
            self.remaining[2] -= usage.output_tokens

    def seen(self, *, now_s: float) -> SeenLimits:
        """What its headers say."""
        self._refill(now_s)
        now = datetime.fromtimestamp(now_s, UTC)
        return SeenLimits(
            *(
                SeenLimit(
                    int(limit),
                    max(0, int(left)),
                    now + timedelta(seconds=(limit - left) * 60 / limit),
                )
                for left, limit in zip(self.remaining, self.limits, strict=True)
            )
        )

    def ideal_s(self, calls: "list[Call]") -> float:
        """Seconds that it needs for all of them at least: it begins with full buckets."""
        totals = (
            len(calls),
            sum(call.usage.input_tokens for call in calls),
            sum(call.usage.output_tokens for call in calls),
        )
        waits_s = [
            (total - size) * 60 / limit
            for total, size, limit in zip(totals, self.sizes, self.limits, strict=True)
        ]
        return max(0.0, *waits_s) + sum(call.duration_s for call in calls) / len(calls)

    def _refill(self, now_s: float) -> None:
        elapsed_s = max(0.0, now_s - self.at_s)
        self.at_s = max(now_s, self.at_s)
        self.remaining = [
            min(size, left + elapsed_s * limit / 60)
            for left, size, limit in zip(self.remaining, self.sizes, self.limits, strict=True)
        ]


@dataclass(frozen=True)
class Call:
    """What somebody wants to know of Claude."""

    usage: Usage
    estimate: Demand
    duration_s: float


def chance(seed: int) -> Random:
    """Chance that repeats itself."""
    return Random(seed)  # noqa: S311 - no secret depends on it


def some_calls(*, seed: int, number: int, input_tokens: int = 2000) -> list[Call]:
    """Calls of different sizes; nobody knows beforehand how long an answer will be."""
    random = chance(seed)
    return [
        Call(
            usage=Usage(
                input_tokens=(size := int(input_tokens * random.uniform(0.2, 1.8))),
                output_tokens=int(min(3000, random.lognormvariate(5.5, 0.7))),
                cache_read_input_tokens=500,
            ),
            estimate=Demand(size * random.uniform(1.0, 1.5), 1000),
            duration_s=random.uniform(1, 12),
        )
        for _ in range(number)
    ]


class Simulation:
    """Processes that make calls until all are answered."""

    def __init__(
        self,
        claude: LimitedClaude,
        *,
        processes: int = 1,
        slots: int = 200,
        connects_s: float = 0.1,
        rules: LimitRules | None = None,
        seed: int = 1,
    ) -> None:
        """Take Claude.

        Args:
            claude: Who enforces the limits.
            processes: How many look for calls that are due.
            slots: Calls that each of them has under way or waiting at once.
            connects_s: Seconds until an admitted call has reached Claude, at most: some overtake others.
            rules: What settings say.
            seed: Of chance.
        """
        self.claude = claude
        self.random = chance(seed)
        self.now_s = START_S
        self.answered = 0
        self.limited = 0
        self.failed = 0
        self.asked = 0
        self.parked = 0
        self.begun: list[tuple[float, Call]] = []
        self._rules = rules or LimitRules()
        self._connects_s = connects_s
        self._stored = "{}"
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._number = count()
        self._due: list[tuple[float, int, Call]] = []
        self._free = [slots] * processes

    @property
    def state(self) -> LimitState:
        """What the record holds."""
        return LimitState.from_json(json.loads(self._stored))

    @property
    def elapsed_s(self) -> float:
        """Seconds since the beginning."""
        return self.now_s - START_S

    def begun_s(self, *, min_input_tokens: int = 0) -> list[float]:
        """When calls were begun, those that were refused included."""
        return [at_s for at_s, call in self.begun if call.usage.input_tokens >= min_input_tokens]

    def run(self, calls: list[Call], *, until_s: float = 3600.0) -> None:
        """Make the calls, until all are answered or that time is over."""
        for call in calls:
            heapq.heappush(self._due, (self.now_s, next(self._number), call))
        for process in range(len(self._free)):
            self.at(self.random.random(), lambda process=process: self._poll(process))
        wanted = self.answered + len(calls)
        while self._events and self.answered < wanted:
            at_s, _, happen = heapq.heappop(self._events)
            if at_s - START_S > until_s:
                return
            self.now_s = at_s
            happen()

    def rest(self, seconds: float) -> None:
        """Let time go by, without a call."""
        self._events.clear()
        self.now_s += seconds

    def at(self, delay_s: float, happen: Callable[[], None]) -> None:
        """Let something happen later."""
        heapq.heappush(self._events, (self.now_s + delay_s, next(self._number), happen))

    def _poll(self, process: int) -> None:
        """Claim what is due; again after about a second, as hints and polls come."""
        while self._free[process] and self._due and self._due[0][0] <= self.now_s:
            call = heapq.heappop(self._due)[2]
            self._free[process] -= 1
            self.at(self.random.uniform(0.005, 0.05), lambda call=call: self._ask(process, call))
        self.at(self.random.uniform(0.5, 1.5), lambda: self._poll(process))

    def _leave(self, process: int, call: Call, *, again_in_s: float | None) -> None:
        """Give the slot away, for good or until the call is due again."""
        self._free[process] += 1
        if again_in_s is not None:
            heapq.heappush(self._due, (self.now_s + again_in_s, next(self._number), call))

    def _ask(self, process: int, call: Call) -> None:
        """Ask the limiter."""
        state = self._lock()
        decision = decide(
            state, "model", call.estimate, now_s=self.now_s, random=self.random.random
        )
        self._save(state)
        match decision:
            case ComeAgain(wait_s):
                self.parked += 1
                self._leave(process, call, again_in_s=wait_s)
            case Go(admission, delay_s):
                # It opens the call in the record, and connects.
                delay_s += self.random.uniform(0.01, self._connects_s)
                self.at(delay_s, lambda: self._call(process, call, admission))

    def _call(self, process: int, call: Call, admission: Admission) -> None:
        """Ask Claude."""
        self.asked += 1
        self.begun.append((self.elapsed_s, call))
        if self.claude.is_overloaded:
            self.failed += 1
            self._note(Note(admission, fault=CallFault.OVERLOADED))
            self._leave(process, call, again_in_s=self.random.uniform(0, 4))
            return
        wait_s = self.claude.take(call.usage, now_s=self.now_s)
        seen = self.claude.seen(now_s=self.now_s)
        if wait_s is not None:
            self.limited += 1
            fault = CallFault.RATE_LIMITED
            self._note(Note(admission, seen=seen, fault=fault, retry_after_s=wait_s))
            self._leave(process, call, again_in_s=wait_s)
            return
        self.at(call.duration_s, lambda: self._answer(process, call, admission, seen))

    def _answer(self, process: int, call: Call, admission: Admission, seen: SeenLimits) -> None:
        self.claude.finish(call.usage, now_s=self.now_s)
        self.answered += 1
        note = Note(admission, usage=call.usage, seen=seen, seen_ago_s=call.duration_s)
        self._note(note)
        self._leave(process, call, again_in_s=None)

    def _note(self, note: Note) -> None:
        state = self._lock()
        learn(state, note, rules=self._rules, now_s=self.now_s)
        self._save(state)

    def _lock(self) -> LimitState:
        state = self.state
        state.advance(self.now_s, self._rules.caps)
        return state

    def _save(self, state: LimitState) -> None:
        self._stored = json.dumps(state.to_json(), allow_nan=False)
