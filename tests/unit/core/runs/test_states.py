"""The transition table is whole and closed."""

import pytest

from services.core.runs.states import (
    FINAL_STATES,
    NEXT_STATE,
    RunState,
    Transition,
    sources,
    target,
)


@pytest.mark.parametrize("transition", Transition)
def test_every_transition_has_sources_and_one_target(transition: Transition) -> None:
    """A statement can take its states from the table: where it may start, and where it ends."""
    targets = {state for (_, name), state in NEXT_STATE.items() if name is transition}

    assert sources(transition)
    assert {target(transition)} == targets


def test_nothing_but_a_replay_leaves_a_final_state() -> None:
    """What has ended stays as it is, until a client wants it again; success stays for good."""
    left = {(state, name) for state, name in NEXT_STATE if state in FINAL_STATES}

    assert left == {
        (RunState.FAILED, Transition.REPLAY),
        (RunState.CANCELLED, Transition.REPLAY),
    }


def test_every_state_that_is_not_final_can_pass_its_deadline() -> None:
    """No run lasts for ever."""
    assert set(RunState) - FINAL_STATES == set(sources(Transition.EXPIRE))
    assert target(Transition.EXPIRE) is RunState.FAILED


def test_every_other_state_can_be_cancelled() -> None:
    """A client can end whatever has not ended."""
    assert set(RunState) - FINAL_STATES == set(sources(Transition.CANCEL))


def test_every_state_is_reached() -> None:
    """No state is there for show."""
    assert set(RunState) == {RunState.QUEUED, *NEXT_STATE.values()}
