"""Batches: each caller gets its own result, whatever happens to its neighbours."""

import asyncio
from collections.abc import Mapping, Sequence

import pytest

from services.core.errors import StoreUnavailableError
from services.core.runs.batcher import Batcher


class Writer:
    """Takes batches; refuses those with a bad item, and can be held up."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.open = asyncio.Event()
        self.open.set()
        self.is_absent = False
        self.at_once = 0
        self.most_at_once = 0

    async def write(self, items: Sequence[str]) -> Mapping[str, str]:
        """Commit a batch."""
        self.batches.append(list(items))
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await self.open.wait()
            await asyncio.sleep(0)
        finally:
            self.at_once -= 1
        if self.is_absent:
            raise StoreUnavailableError
        if "bad" in items:
            message = "bad item"
            raise ValueError(message)
        return {item: item.upper() for item in items if item != "gone"}


async def test_callers_of_one_turn_share_a_batch() -> None:
    """Ten callers, one transaction, ten answers."""
    writer = Writer()
    batcher = Batcher(writer.write)

    answers = await asyncio.gather(*(batcher.submit(f"k{i}", f"k{i}") for i in range(10)))

    assert [f"K{i}" for i in range(10)] == answers
    assert len(writer.batches) == 1


async def test_an_item_without_effect_gives_none() -> None:
    """A fenced-out caller learns it, and its neighbour does not mind."""
    batcher = Batcher(Writer().write)

    answers = await asyncio.gather(batcher.submit("gone", "gone"), batcher.submit("a", "a"))

    assert answers == [None, "A"]


async def test_a_bad_item_fails_alone() -> None:
    """One item that cannot be stored costs its neighbours a retry, not their commit."""
    writer = Writer()
    batcher = Batcher(writer.write)
    keys = [f"k{i}" for i in range(63)]

    *answers, refused = await asyncio.gather(
        *(batcher.submit(key, key) for key in keys),
        batcher.submit("bad", "bad"),
        return_exceptions=True,
    )

    assert [key.upper() for key in keys] == answers
    assert isinstance(refused, ValueError)
    assert len(writer.batches) <= 2 * 6 + 1  # halves, not one by one


async def test_absence_fails_the_whole_batch_at_once() -> None:
    """When PostgreSQL is away, nobody waits for as many timeouts as there are callers."""
    writer = Writer()
    writer.is_absent = True
    batcher = Batcher(writer.write)

    answers = await asyncio.gather(
        *(batcher.submit(f"k{i}", f"k{i}") for i in range(10)), return_exceptions=True
    )

    assert all(isinstance(answer, StoreUnavailableError) for answer in answers)
    assert len({id(answer) for answer in answers}) == 10
    assert len(writer.batches) == 1


async def test_a_cancelled_caller_does_not_break_its_batch() -> None:
    """A client that hangs up takes nobody along."""
    writer = Writer()
    writer.open.clear()
    batcher = Batcher(writer.write)
    stays, leaves = (asyncio.create_task(batcher.submit(key, key)) for key in ("a", "b"))
    await asyncio.sleep(0.01)

    leaves.cancel()
    writer.open.set()

    assert await stays == "A"
    with pytest.raises(asyncio.CancelledError):
        await leaves


async def test_an_item_whose_caller_left_in_time_is_not_written() -> None:
    """What nobody waits for any more is dropped before it starts."""
    writer = Writer()
    writer.open.clear()
    batcher = Batcher(writer.write, max_parallel=1)
    first = asyncio.create_task(batcher.submit("a", "a"))
    await asyncio.sleep(0.01)
    waiting = asyncio.create_task(batcher.submit("b", "b"))
    await asyncio.sleep(0.01)

    waiting.cancel()
    writer.open.set()
    await first
    await batcher.drain()

    assert writer.batches == [["a"]]


async def test_items_of_one_key_never_share_a_batch() -> None:
    """Two writes for one run are two transactions, in order."""
    writer = Writer()
    batcher = Batcher(writer.write, max_parallel=1)

    await asyncio.gather(*(batcher.submit("run", f"text {i}") for i in range(3)))

    assert writer.batches == [["text 0"], ["text 1"], ["text 2"]]


async def test_batches_have_a_largest_size_and_number() -> None:
    """A burst neither makes endless transactions nor takes every connection."""
    writer = Writer()
    batcher = Batcher(writer.write, max_items=7, max_parallel=2)

    answers = await asyncio.gather(*(batcher.submit(f"k{i}", f"k{i}") for i in range(100)))

    assert [f"K{i}" for i in range(100)] == answers
    assert max(map(len, writer.batches)) == 7
    assert writer.most_at_once <= 2


async def test_drain_waits_for_what_was_submitted() -> None:
    """A process that stops loses no write that it has begun."""
    writer = Writer()
    batcher = Batcher(writer.write)
    caller = asyncio.create_task(batcher.submit("a", "a"))
    await asyncio.sleep(0)

    await batcher.drain()

    assert writer.batches == [["a"]]
    assert await caller == "A"


async def test_who_was_just_answered_may_submit_again() -> None:
    """The writer that has nothing left to do is not taken for one that will come back."""
    batcher = Batcher(Writer().write, max_parallel=1)

    async with asyncio.timeout(5):
        answers = [await batcher.submit("a", "a") for _ in range(3)]

    assert answers == ["A"] * 3
