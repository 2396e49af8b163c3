"""What the end of a call teaches about a model's limits. Pure: a state, a note and a time."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum

from services.core.rate_limits import SeenLimit, SeenLimits
from services.core.runs.limit_admission import Admission
from services.core.runs.limit_state import WINDOW_START, Bucket, Caps, Cost, LimitState
from services.core.usage import Usage

MIN_WEIGHT = 0.02
"""Weight of an answer in what is learned of estimates: about the last 50 count."""
RATE_LIMITED_FACTOR = 0.5
OVERLOADED_FACTOR = 0.75
MIN_FACTOR = 1 / 16
RECOVERY_PER_S = 0.025
"""From half of the rate to all of it in 20 s."""
RECOVERY_GAP_S = 5.0
"""Longest time that one answer vouches for."""
PAUSE_S = 5.0
"""Pause after a 429 that says nothing of when to come again."""
MAX_PAUSE_S = 300.0
OVERLOADED_PAUSE_S = 1.0
FULL = 0.99
"""Share of what a bucket holds from which on it counts as full."""
MIN_FULL = 0.02
"""Share of a minute's worth that every bucket holds."""
MAX_WINDOW = 10_000.0


class CallFault(StrEnum):
    """Why a call failed, as far as limits go."""

    RATE_LIMITED = "rate_limited"
    """429 for requests or tokens: everybody pauses."""
    OVERLOADED = "overloaded"
    """529: everybody slows down; several in a row open the breaker."""
    UNAVAILABLE = "unavailable"
    """5xx, or no answer at all: likewise."""
    OTHER = "other"
    """Claude works, and did not like this call."""
    UNSEEN = "unseen"
    """Nobody waited for its end."""


@dataclass(frozen=True, slots=True)
class Note:
    """How an admitted call ended."""

    admission: Admission
    usage: Usage | None = None
    """None if none was reported."""
    seen: SeenLimits | None = None
    seen_ago_s: float = 0.0
    """How long ago that came: long answers tell what their headers said when they end."""
    fault: CallFault | None = None
    """None if it was answered, or never made."""
    retry_after_s: float | None = None
    is_made: bool = True


@dataclass(frozen=True, slots=True)
class LimitRules:
    """What settings say of limits."""

    caps: Caps = field(default_factory=Caps)
    """Upper bounds on what is learned."""
    breaker_faults: int = 10
    """Overloads and absences in a row after which the breaker opens."""
    breaker_pause_s: float = 30.0
    """Seconds until it lets one call through, to see whether Claude works again."""


def learn(state: LimitState, note: Note, *, rules: LimitRules, now_s: float) -> None:
    """Change the state by what a call's end shows.

    Args:
        state: Advanced to now.
        note: How the call ended.
        rules: What settings say.
        now_s: Time.
    """
    state.land(note.admission.at_s, note.admission.cost)
    _settle(state, note)
    if note.seen is not None:
        overtaking = _overtaking(state, note.admission, until_s=now_s - note.seen_ago_s)
        _follow_headers(state, note.admission, note.seen, overtaking, caps=rules.caps)
    if note.admission.is_probe:
        state.probe_until_s = 0.0
    if not note.is_made:
        state.unmake(note.admission.at_s, note.admission.cost)
    if not note.is_made or note.fault is CallFault.UNSEEN:
        return
    match note.fault:
        case CallFault.RATE_LIMITED:
            _pause(state, note, now_s=now_s)
        case CallFault.OVERLOADED | CallFault.UNAVAILABLE:
            _count_fault(state, note, rules=rules, now_s=now_s)
        case _:
            _recover(state, note, now_s=now_s)


def _settle(state: LimitState, note: Note) -> None:
    """Replace what the call was charged by what it took."""
    charged, took = note.admission.cost, _took(note)
    for bucket, estimate, true in zip(state.buckets, charged, took, strict=True):
        bucket.add(estimate - true)
    if note.fault is None and note.is_made:
        state.answers += 1
        weight = max(MIN_WEIGHT, 1 / state.answers)
        demand = note.admission.demand
        _average(state.input_tokens, demand.input_tokens, took.input_tokens, weight=weight)
        _average(state.output_tokens, demand.output_tokens, took.output_tokens, weight=weight)


def _took(note: Note) -> Cost:
    """What counts against limits: input that was read from the cache does not."""
    if note.fault is CallFault.UNSEEN:
        return note.admission.cost
    is_counted = note.is_made and note.fault is not CallFault.RATE_LIMITED
    usage = note.usage or Usage()
    return Cost(
        float(is_counted),
        usage.input_tokens + usage.cache_creation_input_tokens,
        usage.output_tokens,
    )


def _average(bucket: Bucket, asked: float, used: float, *, weight: float) -> None:
    bucket.asked += (asked - bucket.asked) * weight
    bucket.used += (used - bucket.used) * weight


def _overtaking(state: LimitState, admission: Admission, *, until_s: float) -> Cost:
    """What those calls took that were admitted after this one and before its headers came.

    In a burst some of them reach Claude before it.
    """
    begun = state.begun_between(admission.at_s, until_s)
    return Cost(*(max(0.0, all_ - own) for all_, own in zip(begun, admission.begun, strict=True)))


def _follow_headers(
    state: LimitState, admission: Admission, seen: SeenLimits, overtaking: Cost, *, caps: Caps
) -> None:
    """Bring each bucket within what the headers leave possible.

    They show what was left when Claude took the call. Of the calls under way then, Claude may have
    counted all or none, and so of those that may have overtaken it: what was left for us lies
    between that less the former and that with the latter.
    """
    is_news = admission.at_s >= state.seen_at_s
    state.seen_at_s = max(admission.at_s, state.seen_at_s)
    for number, limit in enumerate(_each(seen)):
        if limit is None:
            continue
        bucket, cap = state.buckets[number], caps[number]
        _measure(bucket, admission, number, limit, overtaking=overtaking[number])
        if is_news:
            is_ours = state.factor < 1 or (cap is not None and cap < limit.limit)
            most = limit.remaining + overtaking[number]
            _correct(bucket, admission, number, limit, most=most, may_rise=not is_ours)
            bucket.bound(float(min(limit.limit, cap or limit.limit)))


def _measure(
    bucket: Bucket, admission: Admission, number: int, limit: SeenLimit, *, overtaking: float
) -> None:
    """Learn how much the bucket holds: Claude's may hold less than a minute's worth.

    If it was thought full before the calls under way took theirs, then what was left and what they
    and those that overtook it took is all that it holds.
    """
    if bucket.limit is None or bucket.limit > limit.limit:
        return
    in_flight = admission.in_flight[number]
    size = min(bucket.limit, max(bucket.size, limit.remaining))
    if admission.levels[number] + in_flight >= FULL * bucket.size:
        most = limit.remaining + in_flight + overtaking
        size = min(size, max(most, MIN_FULL * bucket.limit))
    bucket.most = size if size < bucket.limit else None


def _correct(
    bucket: Bucket,
    admission: Admission,
    number: int,
    limit: SeenLimit,
    *,
    most: float,
    may_rise: bool,
) -> None:
    """Correct one bucket, now as it should have been then.

    It rises unless we want less than Claude allows.
    """
    then = admission.levels[number] + bucket.shift - admission.shifts[number]
    least = limit.remaining - admission.in_flight[number]
    if bucket.limit is None:
        correction = least - then
    elif may_rise:
        correction = min(most, max(least, then)) - then
    else:
        correction = min(0.0, most - then)
    bucket.shift += correction
    bucket.add(correction)


def _each(seen: SeenLimits) -> tuple[SeenLimit | None, ...]:
    """In the order of Cost."""
    return seen.requests, seen.input_tokens, seen.output_tokens


def _pause(state: LimitState, note: Note, *, now_s: float) -> None:
    """Nobody calls until Claude says that there is room again."""
    asked_s = note.retry_after_s
    if asked_s is None:
        asked_s = max(_until_resets_s(note.seen, now_s=now_s), default=PAUSE_S)
    pause_s = min(MAX_PAUSE_S, max(0.0, asked_s))
    state.paused_until_s = max(state.paused_until_s, now_s + pause_s)
    _slow_down(state, note, RATE_LIMITED_FACTOR, now_s=now_s)
    if note.seen is None:  # any of them may be used up
        for bucket in state.buckets:
            bucket.level = min(0.0, bucket.level)


def _until_resets_s(seen: SeenLimits | None, *, now_s: float) -> Iterator[float]:
    """Seconds until the limits are there again that are used up."""
    for limit in _each(seen or SeenLimits()):
        if limit is not None and limit.remaining == 0 and limit.reset_at is not None:
            yield limit.reset_at.timestamp() - now_s


def _slow_down(state: LimitState, note: Note, share: float, *, now_s: float) -> None:
    """Lower the rate, once for all calls that were under way together."""
    if note.admission.at_s >= state.cut_at_s:
        state.cut_at_s = now_s
        state.factor = max(MIN_FACTOR, state.factor * share)
        state.window = max(1.0, state.window * share)
    state.raised_at_s = max(now_s, state.paused_until_s)


def _count_fault(state: LimitState, note: Note, *, rules: LimitRules, now_s: float) -> None:
    """Slow down, and open the breaker after several in a row, or when the probe fails."""
    state.faults += 1
    state.paused_until_s = max(state.paused_until_s, now_s + OVERLOADED_PAUSE_S)
    _slow_down(state, note, OVERLOADED_FACTOR, now_s=now_s)
    is_news = not state.is_breaker_open and state.faults >= rules.breaker_faults
    if is_news or note.admission.is_probe:
        state.open_until_s = now_s + rules.breaker_pause_s


def _recover(state: LimitState, note: Note, *, now_s: float) -> None:
    """Claude works: close the breaker if that was the question, and raise the rate a little."""
    if note.admission.is_probe:
        state.open_until_s = 0.0
    state.faults = 0
    vouched_s = min(RECOVERY_GAP_S, max(0.0, now_s - state.raised_at_s))
    state.factor = min(1.0, state.factor + RECOVERY_PER_S * vouched_s)
    state.raised_at_s = max(state.raised_at_s, now_s)
    state.window = min(MAX_WINDOW, max(WINDOW_START, state.window) + 1)
