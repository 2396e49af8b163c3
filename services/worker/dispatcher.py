"""Claims as many due runs as there are free slots, whenever a hint says that there is work.

A claim of one run costs a quarter to half as much as one of a hundred (ADR 19). So under load claims
are spaced: slots that get free one by one, and hints that come one by one, are gathered
for some milliseconds. A hint that comes when little is going on is followed at once.
"""

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

CLAIM_BATCH = 200
"""Runs claimed by one statement: their inputs and checkpoints come in one answer."""
GATHER_S = 0.01
"""Seconds that ends of runs, and hints under load, are gathered, to be followed by one claim."""
WORTH_A_CLAIM = 4
"""A claim of so much less than a whole one is worth it: then nothing is gathered any longer."""
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
        self._stirred = asyncio.Event()
        """There may be something to claim, or a slot for it."""
        self._pressing = asyncio.Event()
        """It is not worth while to wait for more of that."""
        self._stopping = asyncio.Event()
        self._is_busy = False
        """The last claim took several runs, so more are coming."""
        self._ended = 0
        """Runs that have ended since the last claim."""
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
        """Claim soon, at once if little is going on: a hint came."""
        self._stirred.set()
        if not self._is_busy:
            self._pressing.set()

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
        self._stirred.set()
        self._pressing.set()

    async def drain(self, grace_s: float) -> list[UUID]:
        """Let the runs end for `grace_s` seconds, and give the rest back: which."""
        self.stop_claiming()
        claims, heartbeats = self._tasks
        await asyncio.wait([claims])
        released = await self._keeper.drain(grace_s)
        heartbeats.cancel()
        await asyncio.wait([heartbeats])
        return released

    def _note_end(self) -> None:
        """A slot got free."""
        self._ended += 1
        self._stirred.set()
        if self._ended >= self._worth:
            self._pressing.set()

    @property
    def _worth(self) -> int:
        """So many free slots are worth a claim at once."""
        return max(1, min(self._slots, CLAIM_BATCH) // WORTH_A_CLAIM)

    async def _claim_forever(self) -> None:
        failures = 0
        while not self._stopping.is_set():
            try:
                has_more = await self._claim()
                failures = 0
            except StoreUnavailableError as error:
                failures += 1
                logger.warning("cannot claim runs: %s", error)
                await _happens(self._stopping, within_s=min(LONGEST_PAUSE_S, 2.0**failures))
            else:
                if not has_more:
                    await _happens(self._stirred, within_s=self._poll_interval_s)
                await _happens(self._pressing, within_s=GATHER_S)
                self._stirred.clear()
                self._pressing.clear()

    async def _claim(self) -> bool:
        """Claim until nothing is left, or too few slots; whether there is more, and a slot for it.

        When slots get free it claims again, even if nothing was left: the run that ended may have
        made room under its key's `max_running`.
        """
        while not self._stopping.is_set():
            free = self._slots - len(self._keeper)
            if free <= 0:
                return False
            self._ended = 0
            wanted = min(free, CLAIM_BATCH)
            leases = await self._store.claim_due_runs(
                owner=self._identity.owner, limit=wanted, shapes=self._identity.shapes
            )
            self._is_busy = len(leases) > 1
            for lease in leases:
                self._keeper.execute(lease, on_done=self._note_end)
            if len(leases) < wanted:
                return False
            if self._slots - len(self._keeper) < self._worth:
                return len(self._keeper) < self._slots
        return False


async def _happens(event: asyncio.Event, *, within_s: float) -> None:
    """Wait for an event, but not for longer."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(within_s):
            await event.wait()
