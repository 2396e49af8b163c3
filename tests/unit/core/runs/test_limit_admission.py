"""Who may call Claude now, and when the others come again."""

import itertools

import pytest

from services.core.runs.limit_admission import (
    BLIND_HORIZON_S,
    HORIZON_S,
    MAX_DELAY_S,
    PROBE_S,
    Admission,
    ComeAgain,
    Demand,
    Go,
    decide,
)
from services.core.runs.limit_state import (
    BLIND_FLIGHT_S,
    FLIGHT_SLOT_S,
    WINDOW_START,
    Bucket,
    Caps,
    Cost,
    LimitState,
)

NOW_S = 1_700_000_000.0
SMALL = Demand(100, 10)


def known_state(**changes: float) -> LimitState:
    """One request a second, 1,000 input and 100 output tokens a second, all full; nothing under way."""
    state = LimitState(
        requests=Bucket(limit=60.0, level=60.0),
        input_tokens=Bucket(limit=60_000.0, level=60_000.0),
        output_tokens=Bucket(limit=6_000.0, level=6_000.0),
        at_s=NOW_S,
        seen_at_s=NOW_S - 1,
        answers=1_000_000,
    )
    for name, value in changes.items():
        setattr(state, name, value)
    return state


def ask(
    state: LimitState, demand: Demand = SMALL, *, now_s: float = NOW_S, chance: float = 0.0
) -> Go | ComeAgain:
    """Ask once."""
    state.advance(now_s, Caps())
    return decide(state, "model", demand, now_s=now_s, random=lambda: chance)


def admitted(state: LimitState, demand: Demand = SMALL, *, now_s: float = NOW_S) -> Admission:
    """Ask, and be admitted."""
    decision = ask(state, demand, now_s=now_s)
    assert isinstance(decision, Go)
    return decision.admission


def wait_s(state: LimitState, demand: Demand = SMALL, *, now_s: float = NOW_S) -> float:
    """Ask, and be sent away."""
    decision = ask(state, demand, now_s=now_s)
    assert isinstance(decision, ComeAgain)
    return decision.wait_s


def test_who_finds_room_goes_at_once() -> None:
    """And takes it from all three limits."""
    state = known_state()

    decision = ask(state, Demand(1000, 50))

    assert isinstance(decision, Go)
    assert decision.delay_s == 0
    assert decision.admission.cost == Cost(1, 1000, 50)
    assert [bucket.level for bucket in state.buckets] == [59, 59_000, 5_950]
    assert decision.admission.levels == Cost(59, 59_000, 5_950)
    assert state.in_flight == decision.admission.in_flight == Cost(1, 1000, 50)


@pytest.mark.parametrize("dimension", ["requests", "input_tokens", "output_tokens"])
def test_every_limit_binds(dimension: str) -> None:
    """Whichever is used up sends away."""
    state = known_state()
    getattr(state, dimension).level = -100_000

    assert isinstance(ask(state), ComeAgain)


def test_turns_within_a_second_are_waited_for_one_after_the_other() -> None:
    """At ten a second each comes a tenth later; who would wait for longer gives its slot away."""
    state = known_state()
    state.requests = Bucket(limit=600.0, level=12.0)  # 12 are left alone

    decisions = [ask(state) for _ in range(14)]

    delays_s = [decision.delay_s for decision in decisions if isinstance(decision, Go)]
    assert delays_s == pytest.approx([(number + 1) / 10 for number in range(10)])
    assert all(isinstance(decision, ComeAgain) for decision in decisions[10:])


def test_levels_of_a_ticket_are_those_of_the_time_when_it_calls() -> None:
    """Else headers would seem to show less than there is."""
    state = known_state()
    state.requests.level = 60 * 0.02 + 0.5

    decision = ask(state)

    assert isinstance(decision, Go)
    assert decision.delay_s == pytest.approx(0.5)
    assert decision.admission.levels.requests == pytest.approx(1.2)
    assert state.requests.level == pytest.approx(0.7)


def test_appointments_are_spaced_by_the_time_that_a_call_takes() -> None:
    """So they come back at about the rate at which there is room."""
    state = known_state()
    state.requests.level = -2 + 1.2

    waits_s = [wait_s(state) for _ in range(5)]

    gaps_s = [after - before for before, after in itertools.pairwise(waits_s)]
    assert waits_s[0] == pytest.approx(3.0)
    assert gaps_s == pytest.approx([0.9] * 4)


def test_appointments_are_a_little_late_by_chance() -> None:
    """By one place at most."""
    state = known_state()
    state.requests.level = -2 + 1.2

    decision = ask(state, chance=0.5)

    assert isinstance(decision, ComeAgain)
    assert decision.wait_s == pytest.approx(3.5)


@pytest.mark.parametrize("chance", [0.0, 0.5, 0.99])
def test_nobody_waits_for_much_longer_than_a_minute(chance: float) -> None:
    """However many wait: limits change."""
    state = known_state()
    state.requests.level = -10.0

    waits_s = []
    for _ in range(1000):
        decision = ask(state, chance=chance)
        assert isinstance(decision, ComeAgain)
        waits_s.append(decision.wait_s)

    assert max(waits_s) < 12 + HORIZON_S + 2
    assert state.tail_s < NOW_S + 12 + HORIZON_S + 2
    assert min(waits_s[-100:]) > HORIZON_S / 2


def test_an_appointment_binds_nobody() -> None:
    """Who comes when there is room goes at once, before those who were sent away."""
    state = known_state()
    state.requests.level = -3.0
    wait_s(state)

    assert isinstance(ask(state, now_s=NOW_S + 6), Go)


def test_a_call_larger_than_its_limit_goes_when_the_bucket_is_full() -> None:
    """It would never fit; Claude says what it thinks of it."""
    state = known_state()
    state.input_tokens.level = 59_000.0

    assert isinstance(ask(state, Demand(100_000, 10)), Go)
    assert state.input_tokens.level == pytest.approx(-41_000)
    assert isinstance(
        ask(known_state(input_tokens=Bucket(60_000.0, 30_000.0)), Demand(1e5, 1)), ComeAgain
    )


def test_a_limit_of_one_lets_one_through() -> None:
    """What is left alone of a bucket never takes all of it."""
    state = known_state(requests=Bucket(limit=1.0, level=1.0))

    assert isinstance(ask(state), Go)
    assert isinstance(ask(state), ComeAgain)
    assert isinstance(ask(state, now_s=NOW_S + 60), Go)


def test_estimates_are_corrected_by_how_others_erred() -> None:
    """Answers took a tenth of their estimates on average, and input was half more."""
    state = known_state()
    state.input_tokens.asked, state.input_tokens.used = 1000.0, 1500.0
    state.output_tokens.asked, state.output_tokens.used = 4000.0, 400.0

    assert admitted(state, Demand(100, 5000)).cost == pytest.approx(
        tuple(Cost(1, 150, 500)), rel=1e-4
    )


@pytest.mark.parametrize(("answers", "charged"), [(1, 300), (2, 300), (4, 225), (200, 151.5)])
def test_what_few_answers_teach_is_taken_with_a_margin(answers: int, charged: float) -> None:
    """The first ones may be shorter than most: a burst must not count on that."""
    state = known_state(answers=answers)
    state.input_tokens.asked, state.input_tokens.used = 1000.0, 1500.0

    assert admitted(state, Demand(100, 10)).cost.input_tokens == pytest.approx(charged)


def test_estimates_that_have_become_better_are_believed() -> None:
    """The first ones were ten times too high; one below the mean of all answers is none of them."""
    state = known_state()
    state.output_tokens.asked, state.output_tokens.used = 3000.0, 300.0

    costs = [admitted(state, Demand(1, estimate)).cost for estimate in (3000, 400, 200)]

    assert [cost.output_tokens for cost in costs] == pytest.approx([300, 300, 200], rel=1e-4)


def test_while_limits_are_unknown_few_are_under_way() -> None:
    """The first answers tell them; meanwhile nobody is sent away for long."""
    state = LimitState(at_s=NOW_S)

    decisions = [ask(state) for _ in range(50)]

    waits_s = [decision.wait_s for decision in decisions if isinstance(decision, ComeAgain)]
    assert sum(isinstance(decision, Go) for decision in decisions) == WINDOW_START
    assert 2 * MAX_DELAY_S <= min(waits_s)
    assert max(waits_s) < 10


def test_calls_that_died_before_the_first_answer_keep_nobody_away_for_long() -> None:
    """A worker was killed with all of the first calls: nothing is known, and nobody will tell."""
    state = LimitState(at_s=NOW_S)
    for _ in range(int(WINDOW_START)):
        admitted(state)

    assert isinstance(ask(state, now_s=NOW_S + 2), ComeAgain)

    later_s = NOW_S + BLIND_FLIGHT_S + FLIGHT_SLOT_S
    decisions = [ask(state, now_s=later_s) for _ in range(50)]
    assert sum(isinstance(decision, Go) for decision in decisions) == WINDOW_START


def test_while_few_have_answered_nobody_is_sent_away_for_long() -> None:
    """First estimates may be fifty times too high, and appointments with them."""
    state = known_state(answers=5)
    state.output_tokens.level = 0.0

    waits_s = [wait_s(state, Demand(100, 2000)) for _ in range(100)]

    assert max(waits_s) < 21 + BLIND_HORIZON_S + 2


def test_a_pause_holds_for_everyone() -> None:
    """Appointments begin with its end; a short rest of it is waited for."""
    state = known_state(paused_until_s=NOW_S + 20)

    assert wait_s(state) == pytest.approx(20)
    assert wait_s(state, now_s=NOW_S + 5) == pytest.approx(15.9)
    decision = ask(state, now_s=NOW_S + 19.5)
    assert isinstance(decision, Go)
    assert decision.delay_s == pytest.approx(0.5)


def test_a_lowered_rate_spaces_appointments_further() -> None:
    """Half of the rate, twice the time."""
    state = known_state(factor=0.5)
    state.requests.level = -0.8

    assert [wait_s(state), wait_s(state)] == pytest.approx([6.0, 7.8])


def test_while_the_breaker_is_open_nobody_goes() -> None:
    """And the caller knows why: another model may be asked."""
    state = known_state(open_until_s=NOW_S + 30)

    decision = ask(state, now_s=NOW_S + 29.9)

    assert isinstance(decision, ComeAgain)
    assert decision.is_breaker_open
    assert decision.wait_s >= 0.1


def test_a_half_open_breaker_lets_one_through() -> None:
    """Until its end is known, or its process must have died."""
    state = known_state(open_until_s=NOW_S)

    assert admitted(state).is_probe
    second = ask(state, now_s=NOW_S + 1)
    assert isinstance(second, ComeAgain)
    assert second.is_breaker_open
    assert admitted(state, now_s=NOW_S + PROBE_S).is_probe


def test_a_probe_needs_room_like_others() -> None:
    """And who finds none is no probe: the next one may be."""
    state = known_state(open_until_s=NOW_S)
    state.requests.level = -10

    decision = ask(state)

    assert isinstance(decision, ComeAgain)
    assert decision.is_breaker_open
    assert state.probe_until_s == 0


def mixed_state() -> LimitState:
    """Calls of 100 input tokens on average, and nothing left: a thousand come up each second."""
    state = known_state()
    state.requests = Bucket(limit=60_000.0, level=60_000.0)
    state.input_tokens = Bucket(limit=60_000.0, level=1_200.0, asked=100.0, used=100.0)
    state.output_tokens.asked = state.output_tokens.used = 10.0
    return state


def test_room_is_saved_up_for_a_large_call() -> None:
    """Small ones would take each bit of it as it comes up."""
    state = mixed_state()

    assert wait_s(state, Demand(20_000, 10)) == pytest.approx(20, rel=1e-4)
    assert isinstance(ask(state, now_s=NOW_S + 10), ComeAgain)
    assert isinstance(ask(state, Demand(19_500, 10), now_s=NOW_S + 20), Go)
    assert isinstance(ask(state, now_s=NOW_S + 20.5), Go)


def test_small_calls_have_as_much_time_as_large_ones() -> None:
    """After a large one the next cannot have room saved up at once."""
    state = mixed_state()
    wait_s(state, Demand(20_000, 10))
    admitted(state, Demand(20_000, 10), now_s=NOW_S + 20.01)

    wait_s(state, Demand(20_000, 10), now_s=NOW_S + 21)

    assert isinstance(ask(state, now_s=NOW_S + 22), Go)


def test_room_of_a_large_call_that_does_not_come_is_free_again() -> None:
    """Its run may have been cancelled."""
    state = mixed_state()
    wait_s(state, Demand(20_000, 10))

    assert isinstance(ask(state, now_s=NOW_S + 18), ComeAgain)
    assert isinstance(ask(state, now_s=NOW_S + 31), Go)
