"""Holds the leases of one process: executes their runs and renews them, until each ends or is lost."""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass
from uuid import UUID

from services.core.errors import LeaseLostError, StoreUnavailableError
from services.core.runs.models import Lease
from services.core.runs.store import RunStore
from services.worker.executor import RunExecutor
from services.worker.identity import Identity
from services.worker.reporter import RunReport, RunReporter
from services.worker.run_marks import context_of

logger = logging.getLogger(__name__)

BEATS_PER_LEASE = 3
"""Heartbeats in the time of one lease: two may fail before a run is lost."""
RETRY_BEAT_S = 1.0
"""Seconds until the next heartbeat after one that PostgreSQL did not take."""
LOOK_INTERVAL_S = 1.0
"""Seconds between two looks at the leases: so soon a cancelled run is cut off."""
RELEASE_TIMEOUT_S = 4.0
"""Seconds that giving runs back may take, with what their steps have to tidy up; the rest lapses."""


@dataclass(slots=True, eq=False)
class _Held:
    """A run that is executed here."""

    lease: Lease
    report: RunReport
    is_ending: bool = False
    """Its ending is being written: a lease that is gone by then is no loss."""
    is_lost: bool = False
    """Another worker has it, or it was cancelled: nothing more is written."""


class LeaseKeeper:
    """Executes claimed runs as asyncio tasks and keeps their leases."""

    def __init__(
        self,
        store: RunStore,
        executor: RunExecutor,
        reporter: RunReporter,
        *,
        identity: Identity,
        lease_ttl_s: float,
    ) -> None:
        self._store = store
        self._executor = executor
        self._reporter = reporter
        self._identity = identity
        self._beat_interval_s = lease_ttl_s / BEATS_PER_LEASE
        self._held: dict[asyncio.Task[None], _Held] = {}
        self._latest: dict[UUID, asyncio.Task[None]] = {}
        """The latest execution of each run that is held."""
        self._released: list[UUID] = []
        self.left_behind = 0
        """Runs that are held in the record, but not executed any more: nobody could give them back."""

    def __len__(self) -> int:
        """How many runs are executed."""
        return len(self._held)

    def execute(self, lease: Lease, *, on_done: Callable[[], None] = lambda: None) -> None:
        """Execute a run in a task of its own; `on_done` is called when it is here no more."""

        def forget(task: asyncio.Task[None]) -> None:
            del self._held[task]
            if self._latest.get(lease.run_id) is task:
                del self._latest[lease.run_id]
            if error := task.exception():
                # A defect of ours: the lease lapses.
                self.left_behind += 1
                logger.error("run %s is left behind", lease.run_id, exc_info=error)
            on_done()

        # It came back while its last execution here has not noticed yet. That one's lease is gone;
        # heartbeats could not tell, for the run is held: by this one.
        if earlier := self._latest.get(lease.run_id):
            _cut_off({earlier: self._held[earlier]}, kept=())
        held = _Held(lease, self._reporter.report_start(lease))
        task = asyncio.create_task(
            self._execute(held), name=f"run {lease.run_id}", context=context_of(lease.run_id)
        )
        self._held[task] = held
        self._latest[lease.run_id] = task
        task.add_done_callback(forget)

    async def keep_forever(self, on_beat: Callable[[], None] = lambda: None) -> None:
        """Renew all leases each third of their time, and look every second which are lost.

        Args:
            on_beat: Called with each heartbeat that PostgreSQL took.
        """
        async with asyncio.TaskGroup() as group:
            group.create_task(self._beat_forever(on_beat))
            group.create_task(self._look_forever())

    async def _look_forever(self) -> None:
        while True:
            await asyncio.sleep(LOOK_INTERVAL_S)
            with contextlib.suppress(StoreUnavailableError):  # heartbeats tell
                await self.look()

    async def _beat_forever(self, on_beat: Callable[[], None]) -> None:
        while True:
            try:
                await self.beat()
                on_beat()
            except StoreUnavailableError as error:
                # Nobody can take the runs while PostgreSQL is away. If only we are cut off, the
                # fence refuses what we write later. So what is paid for is not thrown away.
                logger.warning("heartbeat failed, %d runs held: %s", len(self), error)
                await asyncio.sleep(min(RETRY_BEAT_S, self._beat_interval_s))
            else:
                await asyncio.sleep(self._beat_interval_s)

    async def beat(self) -> None:
        """Renew all leases and cut off the runs whose lease is gone.

        Raises:
            StoreUnavailableError: PostgreSQL does not answer.
        """
        snapshot = dict(self._held)
        identity = self._identity
        await self._store.record_heartbeat(
            process=identity.process, kind=identity.kind, shapes=identity.shapes
        )
        if snapshot:
            kept = await self._store.renew_leases([held.lease for held in snapshot.values()])
            _cut_off(snapshot, kept)

    async def look(self) -> None:
        """Cut off the runs whose lease is gone.

        Raises:
            StoreUnavailableError: PostgreSQL does not answer.
        """
        if snapshot := dict(self._held):
            kept = await self._store.find_held([held.lease for held in snapshot.values()])
            _cut_off(snapshot, kept)

    async def drain(self, grace_s: float) -> list[UUID]:
        """Wait until the runs have ended, for `grace_s` seconds, and give the rest back: which."""
        if self._held:
            await asyncio.wait(self._held, timeout=grace_s)
        for task, held in self._held.items():
            if not held.is_ending:
                task.cancel()
        if self._held:
            await asyncio.wait(self._held, timeout=RELEASE_TIMEOUT_S)
        self.left_behind += len(self._held)
        released, self._released = self._released, []
        return released

    async def _execute(self, held: _Held) -> None:
        try:
            ending = await self._executor.execute(held.lease)
            held.is_ending = True
            await self._executor.record(held.lease, ending)
        except LeaseLostError:
            held.report.interrupt("lease lost or run cancelled")
        except asyncio.CancelledError:
            await self._leave(held)
        else:
            held.report.end(ending)

    async def _leave(self, held: _Held) -> None:
        """Give the run back, unless it is no longer ours."""
        if held.is_lost:
            logger.info("run %s was cut off: lease lost or run cancelled", held.lease.run_id)
            held.report.interrupt("lease lost or run cancelled")
            return
        held.report.interrupt("given back by a stopping worker")
        try:
            await self._store.release_run(held.lease)
            self._released.append(held.lease.run_id)
        except LeaseLostError:
            logger.info("run %s is not ours any more", held.lease.run_id)
        except StoreUnavailableError as error:
            self.left_behind += 1
            logger.warning("run %s was not given back: %s", held.lease.run_id, error)


def _cut_off(runs: Mapping["asyncio.Task[None]", _Held], kept: Container[UUID]) -> None:
    """Cancel those runs whose lease was not kept."""
    for task, held in runs.items():
        if held.lease.run_id not in kept and not held.is_ending and not held.is_lost:
            held.is_lost = True
            task.cancel()
