"""Many callers' writes in one transaction: each waits for its commit, and pays a part of it."""

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from contextvars import Context
from itertools import chain
from typing import Generic, NamedTuple, TypeAlias, TypeVar

from services.core.errors import StoreUnavailableError

Key = TypeVar("Key", bound=Hashable)
Result = TypeVar("Result")
Write = Callable[[Sequence[str]], Awaitable[Mapping[Key, Result]]]
"""Commits a batch of encoded items; the results by key, for those that took effect."""


class _Waiting(NamedTuple, Generic[Key, Result]):
    """An item and the caller that waits for it."""

    key: Key
    item: str
    answer: asyncio.Future[Result | None]


_Batch: TypeAlias = Sequence[_Waiting[Key, Result]]


class Batcher(Generic[Key, Result]):
    """Gathers what callers on one event loop submit, and writes it in batches.

    On an idle system an item is written at once. While a batch is on its way the next one gathers,
    so the batches grow with the load. No task runs while there is nothing to write.
    """

    def __init__(
        self, write: Write[Key, Result], *, max_items: int = 500, max_parallel: int = 2
    ) -> None:
        """Take the function that writes a batch.

        Args:
            write: Commits a batch, in a bounded time.
            max_items: Items in one batch; more only make the transaction longer.
            max_parallel: Batches on their way at once; each holds a connection.
        """
        self._write = write
        self._max_items = max_items
        self._max_parallel = max_parallel
        self._waiting: list[_Waiting[Key, Result]] = []
        self._writers: set[asyncio.Task[None]] = set()

    async def submit(self, key: Key, item: str) -> Result | None:
        """Commit an item; its result, or None where it had no effect.

        A caller that is cancelled leaves the batch of others whole. Its own item is dropped if it
        was not on its way yet.

        Args:
            key: Tells the item's result from others. Items with the same key never share a batch.
            item: JSON.

        Raises:
            StoreUnavailableError: No answer in time; the item may have been committed or not.
        """
        answer: asyncio.Future[Result | None] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(key, item, answer))
        if len(self._writers) < self._max_parallel:
            # In an empty context: a batch belongs to no caller's span.
            writer = asyncio.create_task(self._write_waiting(), context=Context())
            self._writers.add(writer)
            writer.add_done_callback(self._writers.discard)
        return await answer

    async def drain(self) -> None:
        """Wait until everything submitted so far is written."""
        while self._writers:
            await asyncio.wait(self._writers)

    async def _write_waiting(self) -> None:
        """Write batch after batch until nothing waits."""
        writer = asyncio.current_task()
        try:
            await asyncio.sleep(0)  # callers that are ready in the same turn of the loop come along
            while batch := self._take_batch():
                try:
                    await self._write_batch(batch)
                finally:
                    for waiting in batch:
                        waiting.answer.cancel()  # no effect on those that were answered
        finally:
            # At once, and not by a callback: who was just answered may submit before that is called.
            if writer is not None:
                self._writers.discard(writer)

    def _take_batch(self) -> _Batch[Key, Result]:
        """The next items, one per key, oldest first; drops those whose caller has gone."""
        batch: dict[Key, _Waiting[Key, Result]] = {}
        later = []
        for waiting in self._waiting:
            if waiting.answer.done():
                continue
            if len(batch) < self._max_items and waiting.key not in batch:
                batch[waiting.key] = waiting
            else:
                later.append(waiting)
        self._waiting = later
        return list(batch.values())

    async def _write_batch(self, batch: _Batch[Key, Result]) -> None:
        """Write a batch and answer its callers; halves it until a bad item fails alone."""
        parts = [batch]
        while parts:
            part = parts.pop()
            try:
                results = await self._write([waiting.item for waiting in part])
            except StoreUnavailableError as error:
                for waiting in chain(part, *parts):
                    _refuse(waiting, type(error)(str(error)), cause=error)
                return
            except Exception as error:  # noqa: BLE001 - it belongs to the caller, who waits for it
                if len(part) > 1:
                    middle = len(part) // 2
                    parts += [part[middle:], part[:middle]]
                else:
                    _refuse(part[0], error, cause=error.__cause__)
            else:
                _answer(part, results)


def _answer(part: _Batch[Key, Result], results: Mapping[Key, Result]) -> None:
    """Give each caller its result."""
    for waiting in part:
        if not waiting.answer.done():
            waiting.answer.set_result(results.get(waiting.key))


def _refuse(
    waiting: _Waiting[Key, Result], error: Exception, *, cause: BaseException | None
) -> None:
    """Raise the error in the caller."""
    error.__cause__ = cause
    if not waiting.answer.done():
        waiting.answer.set_exception(error)
