"""Several calls at once, and what an error among them costs."""

import asyncio

import pytest

from services.core.errors import CallParkedError, ClaudeOverloadedError
from services.pipelines.concurrency import map_bounded


class Calls:
    """Calls that take a moment; one of them fails."""

    def __init__(self, failing: int | None = None) -> None:
        self.failing = failing
        self.begun: list[int] = []
        self.ended: list[int] = []
        self.most_at_once = 0

    async def __call__(self, number: int) -> int:
        self.begun.append(number)
        self.most_at_once = max(self.most_at_once, len(self.begun) - len(self.ended))
        await asyncio.sleep(0 if number == self.failing else 0.01)
        self.ended.append(number)
        if number == self.failing:
            raise ClaudeOverloadedError
        return number * 10


async def test_results_are_in_order_and_calls_bounded() -> None:
    """However long each call takes."""
    calls = Calls()

    assert [0, 10, 20, 30, 40] == await map_bounded(calls, range(5), at_once=2)
    assert calls.most_at_once == 2


async def test_nothing_to_do_is_done() -> None:
    """No call, no result."""
    assert [] == await map_bounded(Calls(), [])


async def test_after_an_error_no_call_begins_and_none_is_cut_off() -> None:
    """What was begun is paid for, so it may end and say what it cost."""
    calls = Calls(failing=1)

    with pytest.raises(ClaudeOverloadedError):
        await map_bounded(calls, range(10), at_once=3)

    assert calls.begun == [0, 1, 2]
    assert sorted(calls.ended) == [0, 1, 2]


async def test_all_calls_of_a_step_go_into_one_message_batch() -> None:
    """One that waits for it keeps no other from being asked; in the end the step waits."""
    asked: list[int] = []

    async def ask(number: int) -> int:
        asked.append(number)
        raise CallParkedError(wait_s=1, reason="batch")

    with pytest.raises(CallParkedError, match="batch"):
        await map_bounded(ask, range(7), at_once=2)

    assert asked == list(range(7))


async def test_a_failed_call_comes_before_waiting_ones() -> None:
    """What is wrong is not hidden behind what only takes its time."""

    async def ask(number: int) -> int:
        if number == 3:
            raise ClaudeOverloadedError
        raise CallParkedError(wait_s=1, reason="batch")

    with pytest.raises(ClaudeOverloadedError):
        await map_bounded(ask, range(7), at_once=1)


async def test_limits_and_budgets_end_the_asking() -> None:
    """Who cannot ask for the one cannot ask for the others either."""
    asked: list[int] = []

    async def ask(number: int) -> int:
        asked.append(number)
        raise CallParkedError(wait_s=1, reason="budget")

    with pytest.raises(CallParkedError, match="budget"):
        await map_bounded(ask, range(7), at_once=1)

    assert asked == [0]
