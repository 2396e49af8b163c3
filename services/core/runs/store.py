"""The record's only writer: a method is a transaction; a state change writes row and event."""

import asyncio
from collections.abc import Collection
from decimal import Decimal
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncEngine

from services.core.db import Database
from services.core.runs.acceptance import RunAcceptance, accepted_run
from services.core.runs.claims import RunClaims
from services.core.runs.client_record import ClientRecord
from services.core.runs.key_records import KeyRecords
from services.core.runs.models import (
    ApiKey,
    Checkpoint,
    DueHint,
    Failure,
    Heartbeat,
    Json,
    Lease,
    NewEmail,
    NewRun,
    Run,
    RunTotals,
)
from services.core.runs.progress import RunProgress
from services.core.runs.replays import RunReplays
from services.core.runs.sweeps import RunSweeps
from services.core.runs.vitals import Vitals
from services.core.usage import Usage

PATIENT_TIMEOUT_S = 5.0
"""Seconds that counting and sweeping may take: no client waits for them, and they touch many rows."""


class RunStore(ClientRecord):
    """Accepts, claims, checkpoints and ends runs.

    Every method raises StoreUnavailableError when PostgreSQL does not answer in time; a change may
    then have been committed or not. Every method that takes a Lease raises LeaseLostError when the
    run was taken by another worker, requeued or cancelled meanwhile, and changes nothing then.

    A store belongs to one event loop.
    """

    def __init__(  # noqa: PLR0913 - settings, each by name
        self,
        engine: AsyncEngine,
        *,
        lease_ttl_s: float,
        max_crashes: int,
        rehint_after_s: float,
        max_queued_runs: int,
        run_timeout_s: float = 86400.0,
        timeout_s: float = 4.0,
    ) -> None:
        """Take the engine; nothing connects yet.

        Args:
            engine: From services.core.db.create_engine; `close` disposes of it.
            lease_ttl_s: Seconds until a silent worker loses its runs.
            max_crashes: Deaths put down to a run after which it fails with reason `crashed`.
            rehint_after_s: Seconds after which a due run without a taker is hinted again.
            max_queued_runs: Queued runs above which no more are accepted.
            run_timeout_s: Seconds from the first claim of an attempt to its deadline.
            timeout_s: Seconds that a transaction may take, the wait for a connection included.
        """
        database = Database(engine, timeout_s=timeout_s)
        patient = Database(engine, timeout_s=max(timeout_s, PATIENT_TIMEOUT_S))
        acceptance = RunAcceptance(
            database, rehint_after_s=rehint_after_s, max_queued_runs=max_queued_runs
        )
        super().__init__(database, RunReplays(database, acceptance, rehint_after_s=rehint_after_s))
        self._database = database
        self._acceptance = acceptance
        self._progress = RunProgress(self._database)
        self._claims = RunClaims(
            self._database,
            lease_ttl_s=lease_ttl_s,
            run_timeout_s=run_timeout_s,
            release=self._progress.release_run,
        )
        self._sweeps = RunSweeps(
            patient,
            lease_ttl_s=lease_ttl_s,
            max_crashes=max_crashes,
            rehint_after_s=rehint_after_s,
        )
        self._keys = KeyRecords(self._database)
        self._vitals = Vitals(
            self._database,
            counting=patient,
            lease_ttl_s=lease_ttl_s,
            rehint_after_s=rehint_after_s,
        )

    async def close(self) -> None:
        """Wait for what is being written, then close the connections."""
        await asyncio.gather(self._acceptance.drain(), self._progress.drain())
        await self._database.close()

    # --- accept -------------------------------------------------------------------------------

    async def accept_run(self, new: NewRun) -> tuple[Run, bool]:
        """Commit a run with its steps (pending) and first event; (run, is_new).

        The same idempotency key with the same request_hash gives the run that it made before.

        Raises:
            IdempotencyConflictError: The idempotency key was used with another request_hash.
            QueueFullError: Too many runs are queued.
            ValueError: Input or metadata holds a NaN or infinity.
        """
        accepted = await self._acceptance.accept(new)
        if accepted.created_at is None:
            return await self._reader.get_run(new.key_id, accepted.run_id), False
        return accepted_run(new, run_id=accepted.run_id, created_at=accepted.created_at), True

    # --- execute (worker) ---------------------------------------------------------------------

    async def claim_due_runs(
        self, *, owner: str, limit: int, shapes: Collection[str]
    ) -> list[Lease]:
        """Take up to `limit` due, not isolated runs; higher priority first, then earlier due.

        Args:
            owner: The process, by a name that no other start of it has.
            limit: Runs that it has room for.
            shapes: What it can execute. It gets other runs only if their shape is unknown.
        """
        return await self._claims.claim_due_runs(owner=owner, limit=limit, shapes=shapes)

    async def claim_isolated_run(
        self, run_id: UUID, *, owner: str, shapes: Collection[str]
    ) -> Lease | None:
        """Take one suspect run (is_isolated) if it is due, and of one of the shapes."""
        return await self._claims.claim_isolated_run(run_id, owner=owner, shapes=shapes)

    async def find_held(self, leases: Collection[Lease]) -> set[UUID]:
        """The ids of runs that are still held, as renew_leases says; changes nothing."""
        return await self._claims.find_held(leases)

    async def renew_leases(self, leases: Collection[Lease]) -> set[UUID]:
        """Renew leases; the ids of runs that are still held. The rest were lost or cancelled."""
        return await self._claims.renew_leases(leases)

    async def start_step(self, lease: Lease, step: str) -> int:
        """Count a try of the step and say so (step.started); its number, from 1.

        Raises:
            ValueError: The run has no such step, or it succeeded already.
        """
        return await self._progress.start_step(lease, step)

    async def record_checkpoint(self, lease: Lease, checkpoint: Checkpoint) -> None:
        """Keep a step's output, usage and cost, and add these to the run's; the first one stays.

        Raises:
            ValueError: The run has no such step, or the output holds a NaN or infinity.
        """
        await self._progress.record_checkpoint(lease, checkpoint)

    async def finish_run(self, lease: Lease, output: Json, email: NewEmail | None = None) -> None:
        """End a run well, with its email in the same transaction (running -> succeeded)."""
        await self._progress.finish_run(lease, output, email)

    async def retry_run(
        self,
        lease: Lease,
        *,
        step: str,
        error: str,
        delay_s: float,
        usage: Usage,
        cost_usd: Decimal,
    ) -> None:
        """Try a step again in `delay_s` (running -> queued).

        The event is step.retrying {"step", "attempt", "error", "next_at"}.

        Usage and cost of the failed try are added to the step's and the run's.
        """
        await self._progress.retry_run(
            lease, step=step, error=error, delay_s=delay_s, usage=usage, cost_usd=cost_usd
        )

    async def release_run(
        self, lease: Lease, *, delay_s: float = 0.0, is_cleared: bool = False
    ) -> None:
        """Give a run back: neither a crash nor a failed try (running -> queued).

        Args:
            lease: Its right to the run.
            delay_s: Seconds for which it is left to others: who gives it back does not know its steps.
            is_cleared: It is no suspect any more: from now on it is executed among others.
        """
        await self._progress.release_run(lease, delay_s=delay_s, is_cleared=is_cleared)

    async def fail_run(
        self, lease: Lease, failure: Failure, *, usage: Usage, cost_usd: Decimal
    ) -> None:
        """End a run badly, and with it the step that was running (running -> failed)."""
        await self._progress.fail_run(lease, failure, usage=usage, cost_usd=cost_usd)

    # --- sweep --------------------------------------------------------------------------------

    async def requeue_lapsed_runs(self, *, limit: int = 500) -> int:
        """Requeue runs whose lease lapsed, and fail runs whose deadline has passed; how many.

        A lapse is put down to a run that was alone in its process: a crash. The others get another
        try, from the third lapse in a row on alone. With `max_crashes` a run fails.

        Lapsed leases are left alone within one lease of a PostgreSQL restart or of a time when it
        did not answer. `limit` is that of each kind.
        """
        return await self._sweeps.requeue_lapsed_runs(limit=limit)

    async def bury_process(self, owner: str, *, culprit: UUID | None) -> int:
        """Requeue at once what a dead process held; how many runs.

        Args:
            owner: The name under which it claimed.
            culprit: The run whose code was on the CPU when it died. The death is put down to it: a
                crash. Without one, or if it is held no more, each run has a lapse.
        """
        return await self._sweeps.bury_process(owner, culprit=culprit)

    async def take_due_hints(self, *, limit: int = 500) -> list[DueHint]:
        """Due runs without a fresh hint; one caller gets each, again after rehint_after_s."""
        return await self._sweeps.take_due_hints(limit=limit)

    # --- keys, health -------------------------------------------------------------------------

    async def find_key(self, prefix: str) -> ApiKey | None:
        """The key with that prefix, revoked or not."""
        return await self._keys.find_key(prefix)

    async def add_key(self, *, name: str, prefix: str, key_hash: bytes) -> ApiKey:
        """Store a key's hash; the same prefix and hash again is no change.

        Raises:
            KeyPrefixTakenError: Another key has that prefix; a ValueError.
        """
        return await self._keys.add_key(name=name, prefix=prefix, key_hash=key_hash)

    async def revoke_key(self, prefix: str) -> bool:
        """Revoke a key; whether there was one to revoke."""
        return await self._keys.revoke_key(prefix)

    async def ping(self) -> float:
        """Round trip in seconds."""
        return await self._vitals.ping()

    async def record_heartbeat(
        self, *, process: str, kind: str, shapes: Collection[str] = ()
    ) -> None:
        """Note that a process (worker, beat, ...) is at work now, and what it can execute."""
        await self._vitals.record_heartbeat(process=process, kind=kind, shapes=shapes)

    async def list_heartbeats(self) -> list[Heartbeat]:
        """The latest heartbeat of each process."""
        return await self._vitals.list_heartbeats()

    async def get_totals(self) -> RunTotals:
        """The record in numbers, a few seconds old at most."""
        return await self._vitals.get_totals()
