"""What the end of a call teaches."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from services.core.rate_limits import SeenLimit, SeenLimits
from services.core.runs.limit_admission import Admission, Demand, Go, decide
from services.core.runs.limit_learning import (
    MAX_PAUSE_S,
    MIN_FACTOR,
    OVERLOADED_PAUSE_S,
    PAUSE_S,
    CallFault,
    LimitRules,
    Note,
    learn,
)
from services.core.runs.limit_state import Bucket, Caps, Cost, LimitState
from services.core.usage import Usage

NOW_S = 1_700_000_000.0
RULES = LimitRules(breaker_faults=3, breaker_pause_s=30)


def known_state() -> LimitState:
    """One request a second, 1,000 input and 100 output tokens a second, all full; nothing under way."""
    return LimitState(
        requests=Bucket(limit=60.0, level=60.0),
        input_tokens=Bucket(limit=60_000.0, level=60_000.0),
        output_tokens=Bucket(limit=6_000.0, level=6_000.0),
        at_s=NOW_S,
        seen_at_s=NOW_S - 1,
    )


def admit(state: LimitState, demand: Demand | None = None, *, now_s: float = NOW_S) -> Admission:
    """Be admitted."""
    state.advance(now_s, Caps())
    decision = decide(state, "model", demand or Demand(1000, 100), now_s=now_s, random=lambda: 0.0)
    assert isinstance(decision, Go)
    return decision.admission


def tell(state: LimitState, note: Note, *, now_s: float = NOW_S, rules: LimitRules = RULES) -> None:
    """Tell how a call ended."""
    state.advance(now_s, rules.caps)
    learn(state, note, rules=rules, now_s=now_s)


def seen(requests: tuple[int, int], reset_at: datetime | None = None) -> SeenLimits:
    """Headers with limit and remaining of requests only."""
    return SeenLimits(requests=SeenLimit(*requests, reset_at))


def test_true_usage_replaces_the_estimate() -> None:
    """What was read from the cache does not count, what was written does."""
    state = known_state()
    ticket = admit(state)
    usage = Usage(
        input_tokens=300,
        output_tokens=250,
        cache_creation_input_tokens=200,
        cache_read_input_tokens=9000,
    )

    tell(state, Note(ticket, usage=usage))

    assert [bucket.level for bucket in state.buckets] == [59, 59_500, 5_750]
    assert state.in_flight == Cost(0, 0, 0)


def test_estimates_learn_from_answers() -> None:
    """The first answer counts in full, later ones less and less."""
    state = known_state()

    tell(state, Note(admit(state, Demand(1000, 100)), usage=Usage(500, 300)))
    first = admit(state, Demand(1000, 100))
    tell(state, Note(first, usage=Usage(1000, 100)))
    second = admit(state, Demand(1000, 100))

    assert first.cost == Cost(1, 2 * 500, 2 * 300)
    assert second.cost == Cost(1, 2 * 750, 2 * 200)


def test_a_call_that_was_not_made_gives_all_back() -> None:
    """It teaches nothing else."""
    state, before = known_state(), known_state()

    tell(state, Note(admit(state), is_made=False))

    assert state == before


@pytest.mark.parametrize(
    ("fault", "requests"),
    [
        (CallFault.RATE_LIMITED, 0),
        (CallFault.OVERLOADED, 1),
        (CallFault.UNAVAILABLE, 1),
        (CallFault.OTHER, 1),
    ],
)
def test_failed_calls_take_what_they_reported(fault: CallFault, requests: int) -> None:
    """A refused one took nothing."""
    state = known_state()

    tell(state, Note(admit(state), fault=fault, usage=Usage(7, 3), seen=seen((60, 60))))

    assert state.requests.level == 60 - requests
    assert (state.input_tokens.level, state.output_tokens.level) == (59_993, 5_997)
    assert state.answers == 0


def test_the_first_headers_tell_the_limits() -> None:
    """What the calls under way take is not there any more."""
    state = LimitState(at_s=NOW_S)
    first, _other = admit(state), admit(state)

    tell(state, Note(first, usage=Usage(), seen=seen((50, 40))))

    assert state.requests.limit == 50
    assert state.requests.level == 38
    assert state.input_tokens.limit is None


def test_headers_correct_what_was_believed_left() -> None:
    """Somebody else uses the key as well."""
    state = known_state()
    ticket = admit(state)

    tell(state, Note(ticket, usage=Usage(), seen=seen((60, 20))))

    assert state.requests.level == 20


def test_a_correction_is_made_once() -> None:
    """Two calls that were under way together have seen the same."""
    state = known_state()
    first, second = admit(state), admit(state)

    tell(state, Note(first, usage=Usage(), seen=seen((60, 21))))
    tell(state, Note(second, usage=Usage(), seen=seen((60, 20))))

    assert state.requests.level == 20


def test_what_may_have_overtaken_a_call_does_not_count_twice() -> None:
    """Two that began after it took what its headers miss, or others did: that is for their headers to tell."""
    state = known_state()
    first, _second, third = admit(state), admit(state), admit(state)

    tell(state, Note(first, usage=Usage(), seen=seen((60, 57))))
    assert state.requests.level == 57

    tell(state, Note(third, usage=Usage(), seen=seen((60, 50))))
    assert state.requests.level == 50


def test_what_began_after_the_headers_came_has_not_overtaken() -> None:
    """However long the answer takes after them."""
    state = known_state()
    first = admit(state)
    admit(state, now_s=NOW_S + 3)

    note = Note(first, usage=Usage(), seen=seen((60, 40)), seen_ago_s=2)
    tell(state, note, now_s=NOW_S + 3)

    assert state.requests.level == 60 - 1 - 19


def test_headers_give_back_what_nobody_uses() -> None:
    """What was believed used, and was not, as far as no call under way can still take it."""
    state = known_state()
    state.requests.level = 10
    admit(state)
    ticket = admit(state)

    tell(state, Note(ticket, usage=Usage(), seen=seen((60, 55))))

    assert state.requests.level == 53


def test_headers_within_what_is_under_way_change_nothing() -> None:
    """Claude may have counted these calls or not."""
    state = known_state()
    tickets = [admit(state) for _ in range(10)]

    for remaining in (50, 55, 60):
        tell(state, Note(tickets.pop(), usage=Usage(), seen=seen((60, remaining))))

    assert state.requests.level == 50
    assert state.requests.shift == 0


def test_headers_of_older_calls_are_no_news() -> None:
    """A long answer brings headers from before the limits were changed."""
    state = known_state()
    old, new = admit(state), admit(state, now_s=NOW_S + 10)

    tell(state, Note(new, usage=Usage(), seen=seen((30, 29))), now_s=NOW_S + 11)
    tell(state, Note(old, usage=Usage(), seen=seen((60, 59))), now_s=NOW_S + 12)

    assert state.requests.limit == 30


def test_a_lower_limit_is_taken_over_at_once() -> None:
    """The bucket shrinks with it."""
    state = known_state()

    tell(state, Note(admit(state), usage=Usage(), seen=seen((10, 9))))

    assert (state.requests.limit, state.requests.level) == (10, 9)


def test_a_full_bucket_that_holds_less_is_found_out() -> None:
    """Claude may hold a few seconds' worth only: a burst after a rest must not count on more."""
    state = known_state()

    tell(state, Note(admit(state), usage=Usage(), seen=seen((60, 9))))
    state.advance(NOW_S + 3600, Caps())

    assert (state.requests.limit, state.requests.level) == (60, 10)


def test_a_bucket_that_holds_more_than_thought_is_found_out() -> None:
    """Somebody else had used it when it seemed small."""
    state = known_state()
    tell(state, Note(admit(state), usage=Usage(), seen=seen((60, 9))))

    ticket = admit(state, now_s=NOW_S + 10)
    tell(state, Note(ticket, usage=Usage(), seen=seen((60, 40))), now_s=NOW_S + 11)
    state.advance(NOW_S + 3600, Caps())

    assert state.requests.level == 40


def test_what_settings_allow_bounds_what_headers_allow() -> None:
    """And what Claude has left over is not given back then."""
    rules = LimitRules(caps=Caps(requests=20))
    state = known_state()
    state.advance(NOW_S, rules.caps)
    state.requests.level = 3
    ticket = admit(state)

    tell(state, Note(ticket, usage=Usage(), seen=seen((60, 59))), rules=rules)

    assert (state.requests.limit, state.requests.level) == (20, 2)


def test_settings_above_the_limit_are_no_bound() -> None:
    """The limit is."""
    rules = LimitRules(caps=Caps(requests=1000))
    state = known_state()

    tell(state, Note(admit(state), usage=Usage(), seen=seen((60, 59))), rules=rules)

    assert state.requests.limit == 60


def test_a_429_makes_everybody_pause_and_halves_the_rate() -> None:
    """For as long as Claude says."""
    state = known_state()

    tell(state, Note(admit(state), fault=CallFault.RATE_LIMITED, retry_after_s=7))

    assert state.paused_until_s == NOW_S + 7
    assert state.factor == 0.5
    assert [bucket.level for bucket in state.buckets] == [0, 0, 0]


def test_calls_that_were_under_way_together_halve_the_rate_once() -> None:
    """Ten 429 at once are one message."""
    state = known_state()
    tickets = [admit(state) for _ in range(10)]

    for ticket in tickets:
        tell(state, Note(ticket, fault=CallFault.RATE_LIMITED, retry_after_s=1), now_s=NOW_S + 1)

    assert state.factor == 0.5


def test_the_rate_is_never_lowered_to_nothing() -> None:
    """Something must go on, or nobody would find out that it goes again."""
    state = known_state()
    ticket = admit(state)

    for number in range(20):
        later = replace(ticket, at_s=NOW_S + number)
        tell(state, Note(later, fault=CallFault.RATE_LIMITED), now_s=NOW_S + number)

    assert state.factor == MIN_FACTOR


def test_a_429_without_retry_after_pauses_until_the_next_window() -> None:
    """That of the limit that is used up."""
    state = known_state()
    limits = SeenLimits(
        requests=SeenLimit(60, 30, datetime.fromtimestamp(NOW_S + 40, UTC)),
        input_tokens=SeenLimit(60_000, 0, datetime.fromtimestamp(NOW_S + 25, UTC)),
    )

    tell(state, Note(admit(state), fault=CallFault.RATE_LIMITED, seen=limits))

    assert state.paused_until_s == pytest.approx(NOW_S + 25)


@pytest.mark.parametrize(
    ("retry_after_s", "pause_s"), [(None, PAUSE_S), (1e9, MAX_PAUSE_S), (-5, 0)]
)
def test_a_pause_is_bounded(retry_after_s: float | None, pause_s: float) -> None:
    """Whatever a header says."""
    state = known_state()

    tell(state, Note(admit(state), fault=CallFault.RATE_LIMITED, retry_after_s=retry_after_s))

    assert state.paused_until_s == max(0, NOW_S + pause_s)


def test_recovery_is_gradual() -> None:
    """Each answer raises the rate by the time since the one before, up to the whole in 20 s."""
    state = known_state()
    tell(state, Note(admit(state), fault=CallFault.RATE_LIMITED, retry_after_s=0))
    factors = []

    for second in range(1, 25):
        ticket = admit(state, Demand(1, 1), now_s=NOW_S + 10 * second)
        tell(state, Note(ticket, usage=Usage()), now_s=NOW_S + second)
        factors.append(state.factor)

    assert factors[:3] == pytest.approx([0.525, 0.55, 0.575])
    assert factors[18] == pytest.approx(0.975)
    assert factors[-1] == 1


def test_silence_is_no_recovery() -> None:
    """One answer vouches for a few seconds only."""
    state = known_state()
    tell(state, Note(admit(state), fault=CallFault.RATE_LIMITED, retry_after_s=0))

    ticket = admit(state, now_s=NOW_S + 3600)
    tell(state, Note(ticket, usage=Usage()), now_s=NOW_S + 3601)

    assert state.factor == pytest.approx(0.625)


@pytest.mark.parametrize("fault", [CallFault.OVERLOADED, CallFault.UNAVAILABLE])
def test_an_overload_slows_everybody_down(fault: CallFault) -> None:
    """A short pause and a lower rate, but no breaker yet."""
    state = known_state()

    tell(state, Note(admit(state), fault=fault))

    assert state.paused_until_s == NOW_S + OVERLOADED_PAUSE_S
    assert state.factor == 0.75
    assert not state.is_breaker_open


def test_several_in_a_row_open_the_breaker() -> None:
    """An answer in between begins a new row."""
    state = known_state()
    tickets = [admit(state) for _ in range(6)]
    overload, answer = {"fault": CallFault.OVERLOADED}, {"usage": Usage()}

    for facts in (overload, overload, answer, overload, overload):
        tell(state, Note(tickets.pop(), **facts))
    assert not state.is_breaker_open
    tell(state, Note(tickets.pop(), **overload))

    assert state.open_until_s == NOW_S + 30


def open_breaker() -> tuple[LimitState, list[Admission]]:
    """A state with an open breaker, and two calls that were begun before."""
    state = known_state()
    tickets = [admit(state) for _ in range(5)]
    for _ in range(3):
        tell(state, Note(tickets.pop(), fault=CallFault.OVERLOADED))
    assert state.is_breaker_open
    return state, tickets


def test_calls_from_before_neither_close_nor_prolong_it() -> None:
    """They say nothing of now."""
    state, tickets = open_breaker()

    tell(state, Note(tickets.pop(), fault=CallFault.OVERLOADED), now_s=NOW_S + 10)
    tell(state, Note(tickets.pop(), usage=Usage()), now_s=NOW_S + 10)

    assert state.open_until_s == NOW_S + 30


def test_a_probe_that_is_answered_closes_it() -> None:
    """The rate recovers from there."""
    state, _ = open_breaker()
    probe = admit(state, now_s=NOW_S + 31)

    tell(state, Note(probe, usage=Usage()), now_s=NOW_S + 32)

    assert probe.is_probe
    assert not state.is_breaker_open
    assert state.factor < 1
    assert not admit(state, now_s=NOW_S + 33).is_probe


def test_a_probe_that_fails_opens_it_again() -> None:
    """For as long as before."""
    state, _ = open_breaker()
    probe = admit(state, now_s=NOW_S + 31)

    tell(state, Note(probe, fault=CallFault.UNAVAILABLE), now_s=NOW_S + 35)

    assert state.open_until_s == NOW_S + 35 + 30


def test_a_probe_that_was_not_made_leaves_the_question_to_the_next() -> None:
    """Who asks next is the probe."""
    state, _ = open_breaker()
    probe = admit(state, now_s=NOW_S + 31)

    tell(state, Note(probe, is_made=False), now_s=NOW_S + 32)

    assert admit(state, now_s=NOW_S + 32).is_probe


def test_a_call_whose_end_nobody_saw_counts_as_estimated() -> None:
    """It says nothing else: Claude may hang."""
    state = known_state()
    state.factor = 0.5
    state.faults = 2

    tell(state, Note(admit(state), fault=CallFault.UNSEEN), now_s=NOW_S)

    assert [bucket.level for bucket in state.buckets] == [59, 59_000, 5_900]
    assert (state.in_flight.requests, state.factor, state.faults) == (0, 0.5, 2)


def test_a_probe_whose_end_nobody_saw_leaves_the_question_to_the_next() -> None:
    """The breaker stays half open."""
    state, _ = open_breaker()
    probe = admit(state, now_s=NOW_S + 31)

    tell(state, Note(probe, fault=CallFault.UNSEEN), now_s=NOW_S + 32)

    assert admit(state, now_s=NOW_S + 32).is_probe


def test_a_rejected_probe_closes_it() -> None:
    """Claude works, and did not like the call."""
    state, _ = open_breaker()
    probe = admit(state, now_s=NOW_S + 31)

    tell(state, Note(probe, fault=CallFault.OTHER), now_s=NOW_S + 32)

    assert not state.is_breaker_open


def test_without_headers_more_and_more_are_under_way() -> None:
    """A gateway may drop them: then answers let the window grow, and a 429 halves it."""
    state = LimitState(at_s=NOW_S)
    for second in range(20):
        ticket = admit(state, now_s=NOW_S + second)
        tell(state, Note(ticket, usage=Usage()), now_s=NOW_S + second)
    assert state.window == 30

    ticket = admit(state, now_s=NOW_S + 20)
    tell(state, Note(ticket, fault=CallFault.RATE_LIMITED), now_s=NOW_S + 20)

    assert state.window == 15
