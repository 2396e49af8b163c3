"""services.simulator.faults: which calls fail, and how."""

import pytest

from services.simulator.errors import InvalidRequestError
from services.simulator.faults import (
    MAX_RULES,
    NO_FAULT,
    Fault,
    FaultBoard,
    FaultRule,
    Place,
)


def faults_of(board: FaultBoard, calls: int, prompt: str = "Hello") -> list[Fault | None]:
    """What happens to so many calls."""
    return [board.rule_for(prompt, {}).fault for _ in range(calls)]


def test_without_rules_nothing_fails():
    """A fresh simulator is a well one."""
    assert FaultBoard().rule_for("Hello", {"user-agent": "test"}) is NO_FAULT


def test_a_count_is_used_up():
    """The rule ends after so many calls, and the next one takes over."""
    board = FaultBoard()
    board.add(FaultRule(fault=Fault.HANG, count=2))
    board.add(FaultRule(fault=Fault.DROP, count=1))

    assert faults_of(board, 4) == [Fault.HANG, Fault.HANG, Fault.DROP, None]
    assert board.rules == []


def test_a_match_spares_other_prompts():
    """Only prompts with that text are hit, and only they use up the count."""
    board = FaultBoard()
    board.add(FaultRule(fault=Fault.DROP, match="Ada", count=1))

    assert faults_of(board, 3, "Grace") == [None] * 3
    assert faults_of(board, 2, "To Ada") == [Fault.DROP, None]


def test_a_rate_hits_its_share_and_the_same_calls_each_time():
    """A test with a rate can be run again."""
    board = FaultBoard()
    board.add(FaultRule(fault=Fault.DROP, rate=0.3))
    first = faults_of(board, 1000)
    board.clear()
    board.add(FaultRule(fault=Fault.DROP, rate=0.3))

    assert 250 < first.count(Fault.DROP) < 350
    assert first == faults_of(board, 1000)


def test_headers_go_before_rules():
    """A call that asks for its own fault gets it, and spends no rule."""
    board = FaultBoard()
    board.add(FaultRule(fault=Fault.DROP, count=1))
    headers = {"x-simulator-fault": "rate_limit", "x-simulator-latency-ms": "5"}

    rule = board.rule_for("Hello", headers)

    assert rule == FaultRule(fault=Fault.RATE_LIMIT, latency_ms=5)
    assert len(board.rules) == 1


@pytest.mark.parametrize(
    "headers", [{"x-simulator-fault": "explode"}, {"x-simulator-latency-ms": "soon"}]
)
def test_a_wrong_header_is_a_wrong_request(headers):
    """Spelling mistakes do not pass in silence."""
    with pytest.raises(InvalidRequestError, match="x-simulator"):
        FaultBoard().rule_for("Hello", headers)


def test_rules_are_bounded():
    """A loop in a test cannot fill the memory."""
    board = FaultBoard()
    for _ in range(MAX_RULES):
        board.add(FaultRule(fault=Fault.DROP))

    with pytest.raises(InvalidRequestError):
        board.add(FaultRule(fault=Fault.DROP))


def test_a_rule_holds_in_its_place_only():
    """Batches do not use up what is meant for live calls, and the other way round."""
    board = FaultBoard()
    board.add(FaultRule(fault=Fault.DROP, count=1, place=Place.BATCH_CREATE))

    assert faults_of(board, 2) == [None, None]
    assert board.rule_for("", {}, place=Place.BATCH_REQUEST) is NO_FAULT
    assert Fault.DROP is board.rule_for("", {}, place=Place.BATCH_CREATE).fault
    assert board.rules == []
