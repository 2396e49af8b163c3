"""Claims as many due runs as there are free slots, whenever a hint says that there is work."""

import asyncio
import contextlib
import logging
import os
import signal
from uuid import UUID

from services.core.errors import StoreUnavailableError
from services.core.runs.store import RunStore
from services.worker.identity import Identity
from services.worker.leases import LeaseKeeper

logger = logging.getLogger(__name__)

CLAIM_BATCH = 100
"""Runs claimed by one statement: their inputs and checkpoints come in one answer."""
LONGEST_PAUSE_S = 10.0
"""Seconds between two tries to claim while PostgreSQL is away."""


class RunDispatcher:
    """The one claimer of a worker process; lives on the loop of the asyncio pool.

    It also looks by itself every `poll_interval_s` seconds, so that runs go on, only later, while
    Redis is away.
    """

    def __init__(
        self,
        store: RunStore,
        keeper: LeaseKeeper,
        *,
        identity: Identity,
        slots: int,
        poll_interval_s: float,
    ) -> None:
        self._store = store
        self._keeper = keeper
        self._identity = identity
        self._slots = slots
        self._poll_interval_s = poll_interval_s
        self._hinted = asyncio.Event()
        self._stopping = asyncio.Event()
        self._tasks: tuple[asyncio.Task[None], ...] = ()

    def start(self) -> None:
        """Begin to claim and to send heartbeats, on the running loop."""
        self._tasks = (
            asyncio.create_task(self._claim_forever(), name="claims"),
            asyncio.create_task(self._keeper.keep_forever(), name="heartbeats"),
        )
        for task in self._tasks:
            task.add_done_callback(self._end_process_without)

    def _end_process_without(self, task: asyncio.Task[None]) -> None:
        """A worker that claims nothing, or renews no lease, is of no use: a new one is."""
        if self._stopping.is_set() or task.cancelled():
            return
        logger.critical(
            "%s have ended; the worker ends, to be started again",
            task.get_name(),
            exc_info=task.exception(),
        )
        os.kill(os.getpid(), signal.SIGTERM)

    def wake(self) -> None:
        """Claim soon: a hint came, or a slot got free."""
        self._hinted.set()

    def check(self) -> None:
        """Fail if claiming or heartbeats have ended.

        Raises:
            RuntimeError: One of them has; a defect of ours.
        """
        for task in self._tasks:
            if task.done() and not self._stopping.is_set():
                message = f"{task.get_name()} have ended"
                raise RuntimeError(message)

    def stop_claiming(self) -> None:
        """Claim nothing more; a claim that is under way is kept, or its runs would be orphans."""
        self._stopping.set()
        self._hinted.set()

    async def drain(self, grace_s: float) -> list[UUID]:
        """Let the runs end for `grace_s` seconds, and give the rest back: which."""
        self.stop_claiming()
        claims, heartbeats = self._tasks
        await asyncio.wait([claims])
        released = await self._keeper.drain(grace_s)
        heartbeats.cancel()
        await asyncio.wait([heartbeats])
        return released

    async def _claim_forever(self) -> None:
        failures = 0
        while not self._stopping.is_set():
            try:
                await self._claim()
                failures = 0
            except StoreUnavailableError as error:
                failures += 1
                logger.warning("cannot claim runs: %s", error)
                await _happens(self._stopping, within_s=min(LONGEST_PAUSE_S, 2.0**failures))
            else:
                await _happens(self._hinted, within_s=self._poll_interval_s)
                self._hinted.clear()

    async def _claim(self) -> None:
        """Claim until there is nothing more to do, or no slot left to do it in.

        Whenever a slot gets free it claims again, even if nothing was left: the run that ended may
        have made room under its key's `max_running`.
        """
        has_more = True
        while has_more and not self._stopping.is_set():
            wanted = min(self._slots - len(self._keeper), CLAIM_BATCH)
            if wanted <= 0:
                return
            leases = await self._store.claim_due_runs(
                owner=self._identity.owner, limit=wanted, shapes=self._identity.shapes
            )
            has_more = len(leases) == wanted
            for lease in leases:
                self._keeper.execute(lease, on_done=self.wake)


async def _happens(event: asyncio.Event, *, within_s: float) -> None:
    """Wait for an event, but not for longer."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(within_s):
            await event.wait()
