"""Who may call Claude now, and when the others come again. Pure: a state, a demand and a time."""

from collections.abc import Callable
from dataclasses import dataclass

from services.core.runs.limit_state import NOTHING, Bucket, Cost, LimitState

MAX_DELAY_S = 1.0
"""Whose turn comes within this waits in its process; who waits longer gives its slot away."""
RESERVE = 0.02
"""Share of each bucket that is left alone: estimates err, and calls arrive sooner or later."""
HORIZON_S = 60.0
"""Nobody is sent away for much longer, as limits change."""
CROWDING = 0.9
"""Appointments are made a little closer than there is room: not everybody comes back."""
BLIND_HORIZON_S = 3.0
BLIND_ANSWERS = 20
"""The same while the limits are unknown, or what calls take: the next answers tell."""
PROBE_S = 20.0
"""Seconds after which another probe is sent: the process of the first may have died."""
LARGE_S = 3.0
LARGE_RATIO = 3.0
"""A call is large if it takes more than the room of these seconds, and so many times the mean."""
HELD_SHARE = 0.95
"""What it takes may be estimated a little lower when it comes again."""
HOLD_GRACE_S = 10.0
"""Seconds that the room of a large call is kept when it is due."""
MIN_RATIO, MAX_RATIO = 0.01, 10.0
"""Bounds on what is learned of estimates."""


@dataclass(frozen=True, slots=True)
class Demand:
    """A call that somebody wants to make, as estimated."""

    input_tokens: float
    output_tokens: float


@dataclass(frozen=True, slots=True)
class Admission:
    """The right to make one call. Its end is told once: answer, error or not made."""

    model: str
    demand: Demand
    cost: Cost
    """What it was charged."""
    at_s: float
    """When it was admitted, by the database's clock."""
    levels: Cost
    """What is left in the buckets once it is made; headers are compared with that."""
    shifts: Cost
    in_flight: Cost
    """What calls under way took then, its own included."""
    begun: Cost = NOTHING
    """What the calls took that were admitted in the same second before it, and its own."""
    is_probe: bool = False
    """Nobody else calls before its end is known: the breaker is half open."""


@dataclass(frozen=True, slots=True)
class Go:
    """Call, after a delay of MAX_DELAY_S at most."""

    admission: Admission
    delay_s: float


@dataclass(frozen=True, slots=True)
class ComeAgain:
    """Do not call now. The appointment binds nobody: who comes when there is room is admitted."""

    wait_s: float
    is_breaker_open: bool


def decide(
    state: LimitState, model: str, demand: Demand, *, now_s: float, random: Callable[[], float]
) -> Go | ComeAgain:
    """What a caller may do; changes the state accordingly.

    Args:
        state: Advanced to now.
        model: Whose state it is.
        demand: What the caller wants.
        now_s: Time.
        random: Gives a number in [0, 1).
    """
    cost = _cost(state, demand)
    if state.open_until_s > now_s or state.probe_until_s > now_s:
        opens_at_s = max(state.open_until_s, now_s + MAX_DELAY_S)
        wait_s = _appointment_s(state, cost, opens_at_s, now_s=now_s, random=random)
        return ComeAgain(wait_s, is_breaker_open=True)
    ready_s = _ready_s(state, cost, now_s=now_s)
    if ready_s - now_s > MAX_DELAY_S:
        if _save_up(state, cost, ready_s, now_s=now_s):
            return ComeAgain(ready_s - now_s, is_breaker_open=state.is_breaker_open)
        wait_s = _appointment_s(state, cost, ready_s, now_s=now_s, random=random)
        return ComeAgain(wait_s, is_breaker_open=state.is_breaker_open)
    return _admit(state, model, demand, cost, now_s=now_s, delay_s=ready_s - now_s)


def _cost(state: LimitState, demand: Demand) -> Cost:
    """What the call will probably take: its estimates, corrected by how others erred."""
    return Cost(
        1.0,
        _likely(demand.input_tokens, state.input_tokens, state.answers),
        _likely(demand.output_tokens, state.output_tokens, state.answers),
    )


def _likely(estimate: float, bucket: Bucket, answers: int) -> float:
    """True tokens for estimated ones, with a margin that shrinks as answers come in.

    What is estimated low stays: the estimates may have become better than they were.
    """
    if bucket.asked <= 0:
        return estimate
    margin = 1 + min(1.0, 2 / max(1, answers))
    ratio = min(MAX_RATIO, max(MIN_RATIO, margin * bucket.used / bucket.asked))
    return max(estimate * ratio, min(estimate, margin * bucket.used))


def _ready_s(state: LimitState, cost: Cost, *, now_s: float) -> float:
    """When there is room for it, if nobody else comes."""
    ready_s = max(now_s, state.paused_until_s)
    held = state.held if _is_held_from(state, cost, now_s=now_s) else NOTHING
    for bucket, takes, left_alone in zip(state.buckets, cost, held, strict=True):
        if bucket.limit is not None:
            # A call that is larger than the bucket goes when the bucket is full.
            needed = min(takes + left_alone + RESERVE * bucket.limit, bucket.size)
            missing = needed - bucket.level
            ready_s = max(ready_s, now_s + missing * 60 / (bucket.limit * state.factor))
    if state.is_window_full(now_s):
        return max(ready_s, now_s + 2 * MAX_DELAY_S)
    return ready_s


def _is_held_from(state: LimitState, cost: Cost, *, now_s: float) -> bool:
    """Whether room is saved up for a call, and this one is smaller."""
    is_smaller = any(takes < held for takes, held in zip(cost, state.held, strict=True))
    return now_s < state.held_until_s and is_smaller


def _save_up(state: LimitState, cost: Cost, ready_s: float, *, now_s: float) -> bool:
    """Save room for the call until it comes, if it is large and it is time for large ones."""
    is_time = max(state.held_until_s, state.next_hold_s) <= now_s
    if not is_time or not _is_large(state, cost):
        return False
    state.held = Cost(*(takes * HELD_SHARE for takes in cost))
    state.held_until_s = ready_s + HOLD_GRACE_S
    state.next_hold_s = ready_s + (ready_s - now_s)
    return True


def _is_large(state: LimitState, cost: Cost) -> bool:
    """Whether small ones would always be quicker to take the room that comes up."""
    return any(
        bucket.limit is not None
        and takes > LARGE_RATIO * bucket.used
        and takes * 60 > LARGE_S * bucket.limit * state.factor
        for bucket, takes in zip(state.buckets[1:], cost[1:], strict=True)
    )


def _appointment_s(
    state: LimitState,
    cost: Cost,
    ready_s: float,
    *,
    now_s: float,
    random: Callable[[], float],
) -> float:
    """Seconds until the end of the queue, which grows by the time that such a call takes.

    So those who were sent away come back at about the rate at which there is room. Whom the queue
    has no place for comes back some time within the horizon.
    """
    is_blind = state.seen_at_s == 0 or state.answers < BLIND_ANSWERS
    horizon_s = BLIND_HORIZON_S if is_blind else HORIZON_S
    spacing_s = _spacing_s(state, cost)
    place_s = max(ready_s, state.tail_s)
    if place_s - ready_s > horizon_s:
        place_s = ready_s + horizon_s * (0.5 + random() / 2)
    else:
        state.tail_s = place_s + CROWDING * spacing_s
    return place_s - now_s + min(1.0, spacing_s) * random()


def _spacing_s(state: LimitState, cost: Cost) -> float:
    """Seconds in which as much room comes up as the call takes."""
    spacings_s = [
        takes * 60 / (bucket.limit * state.factor)
        for bucket, takes in zip(state.buckets, cost, strict=True)
        if bucket.limit is not None
    ]
    return max(spacings_s, default=1 / state.window)


def _admit(
    state: LimitState, model: str, demand: Demand, cost: Cost, *, now_s: float, delay_s: float
) -> Go:
    """Charge the call at once, so that the next caller's turn comes after it."""
    for bucket, takes in zip(state.buckets, cost, strict=True):
        bucket.level -= takes
    state.take_off(now_s, cost)
    if now_s < state.held_until_s and not _is_held_from(state, cost, now_s=now_s):
        state.held_until_s = 0.0  # that was the large one
    if state.is_breaker_open:
        state.probe_until_s = now_s + PROBE_S
    levels = (
        bucket.level + delay_s * state.factor * (bucket.limit or 0.0) / 60
        for bucket in state.buckets
    )
    admission = Admission(
        model=model,
        demand=demand,
        cost=cost,
        at_s=now_s,
        levels=Cost(*levels),
        shifts=Cost(*(bucket.shift for bucket in state.buckets)),
        in_flight=state.in_flight,
        begun=state.begun_in_second(now_s),
        is_probe=state.is_breaker_open,
    )
    return Go(admission, delay_s)
