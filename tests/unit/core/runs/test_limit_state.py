"""What is stored of a model's limits."""

import json

import pytest

from services.core.runs.limit_state import FLIGHT_MAX_S, Bucket, Caps, Cost, LimitState

NOW_S = 1_700_000_000.0


def test_state_survives_json() -> None:
    """As the record keeps it."""
    state = LimitState(requests=Bucket(limit=50.0, level=12.5), at_s=NOW_S, answers=3)
    state.take_off(NOW_S, Cost(1, 200, 30))

    assert state == LimitState.from_json(json.loads(json.dumps(state.to_json())))


def test_state_of_a_new_row_is_empty() -> None:
    """Nothing is known yet."""
    assert LimitState() == LimitState.from_json({})


def test_state_of_another_version_keeps_what_is_known() -> None:
    """During a rolling deploy two versions write the same row."""
    stored = LimitState(requests=Bucket(limit=50.0), answers=3).to_json()
    stored["color"] = "blue"
    stored["requests"]["shape"] = "round"
    del stored["factor"], stored["output_tokens"], stored["requests"]["used"]

    assert LimitState(requests=Bucket(limit=50.0), answers=3) == LimitState.from_json(stored)


def test_buckets_fill_up_to_their_limit() -> None:
    """A minute's worth in a minute, less while the rate is lowered, and never more than that."""
    state = LimitState(requests=Bucket(limit=60.0), at_s=NOW_S, factor=0.5)

    state.advance(NOW_S + 10, Caps())
    assert state.requests.level == pytest.approx(5)
    state.advance(NOW_S + 1000, Caps())
    assert state.requests.level == 60


def test_a_clock_that_goes_back_takes_nothing_away() -> None:
    """A failover can lead to a host whose clock is behind."""
    state = LimitState(requests=Bucket(limit=60.0, level=7.0), at_s=NOW_S)

    state.advance(NOW_S - 100, Caps())
    assert (state.requests.level, state.at_s) == (7.0, NOW_S)
    state.advance(NOW_S + 1, Caps())
    assert state.requests.level == pytest.approx(8)


def test_settings_bound_what_is_learned() -> None:
    """A bound that is set counts before the first answer, and where it is lower."""
    state = LimitState(input_tokens=Bucket(limit=9000.0, level=9000.0), at_s=NOW_S)

    state.advance(NOW_S, Caps(requests=10, input_tokens=3000, output_tokens=None))

    assert (state.requests.limit, state.requests.level) == (10, 10)
    assert (state.input_tokens.limit, state.input_tokens.level) == (3000, 3000)
    assert state.output_tokens.limit is None


def test_calls_under_way_are_counted_until_they_end() -> None:
    """Each with what it was charged."""
    state = LimitState()
    state.take_off(NOW_S, Cost(1, 100, 10))
    state.take_off(NOW_S + 1, Cost(1, 200, 20))
    state.take_off(NOW_S + 40, Cost(1, 400, 40))
    assert state.in_flight == Cost(3, 700, 70)

    state.land(NOW_S, Cost(1, 100, 10))
    assert state.in_flight == Cost(2, 600, 60)
    state.land(NOW_S + 1, Cost(1, 200, 20))
    state.land(NOW_S + 40, Cost(1, 400, 40))
    assert (state.in_flight, state.flight) == (Cost(0, 0, 0), {})


def test_calls_of_processes_that_died_are_forgotten() -> None:
    """Nobody will ever tell their end; what is told too late changes nothing."""
    state = LimitState()
    state.take_off(NOW_S, Cost(1, 100, 10))

    state.advance(NOW_S + FLIGHT_MAX_S + 30, Caps())
    state.land(NOW_S, Cost(1, 100, 10))

    assert state.in_flight == Cost(0, 0, 0)
