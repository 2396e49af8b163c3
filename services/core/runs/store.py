"""The record's only writer: a method is a transaction; a state change writes row and event."""

import asyncio
from collections.abc import Collection
from decimal import Decimal
from uuid import UUID

from services.core.db import Database
from services.core.pool import Pool
from services.core.runs.acceptance import RunAcceptance
from services.core.runs.call_limiter import CallLimiter, LimitRules
from services.core.runs.call_limits import CallLimits, list_call_limits
from services.core.runs.calls import RunCalls
from services.core.runs.claim_statements import CLAIM_OPTIONS
from services.core.runs.claims import RunClaims
from services.core.runs.client_record import ClientRecord
from services.core.runs.key_records import KeyRecords
from services.core.runs.message_batches import MessageBatchRecord
from services.core.runs.models import (
    ApiKey,
    CallOpening,
    Checkpoint,
    DueHint,
    Failure,
    Forgotten,
    Heartbeat,
    Json,
    KeyDay,
    Lease,
    NewEmail,
    OpenCall,
    RunTotals,
)
from services.core.runs.progress import RunProgress
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
        pool: Pool,
        *,
        lease_ttl_s: float,
        max_crashes: int,
        rehint_after_s: float,
        max_queued_runs: int,
        run_timeout_s: float = 86400.0,
        timeout_s: float = 4.0,
    ) -> None:
        """Take the connections; nothing connects yet.

        Args:
            pool: Its connections; `close` closes them.
            lease_ttl_s: Seconds until a silent worker loses its runs.
            max_crashes: Deaths put down to a run after which it fails with reason `crashed`.
            rehint_after_s: Seconds after which a due run without a taker is hinted again.
            max_queued_runs: Queued runs above which no more are accepted.
            run_timeout_s: Seconds from the first claim of an attempt to its deadline.
            timeout_s: Seconds that a transaction may take, the wait for a connection included.
        """
        database = Database(pool, timeout_s=timeout_s)
        patient = Database(pool, timeout_s=max(timeout_s, PATIENT_TIMEOUT_S))
        acceptance = RunAcceptance(
            database, rehint_after_s=rehint_after_s, max_queued_runs=max_queued_runs
        )
        super().__init__(pool, acceptance, timeout_s=timeout_s, rehint_after_s=rehint_after_s)
        self._database = database
        self._progress = RunProgress(self._database)
        self._calls = RunCalls(self._database)
        self._claiming = Database(pool.apart(CLAIM_OPTIONS), timeout_s=timeout_s)
        self._claims = RunClaims(
            self._database,
            claiming=self._claiming,
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
        self.message_batches = MessageBatchRecord(patient)
        self._keys = KeyRecords(self._database)
        self._vitals = Vitals(
            database, counting=patient, lease_ttl_s=lease_ttl_s, rehint_after_s=rehint_after_s
        )

    async def close(self) -> None:
        """Wait for what is being written, then close the connections."""
        parts = (self._acceptance, self._progress, self._calls)
        await asyncio.gather(*(part.drain() for part in parts))
        await self._claiming.close()
        await self._database.close()

    # --- execute (worker) ---------------------------------------------------------------------

    async def claim_due_runs(
        self, *, owner: str, limit: int, shapes: Collection[str]
    ) -> list[Lease]:
        """Take up to `limit` due, not isolated runs, fairly between keys.

        Those of keys that run the fewest come first, one of each in turn; within a key the higher
        priority, then the earlier due. No key runs more than its `max_running`.

        Args:
            owner: The process, by a name that no other start of it has.
            limit: Runs that it has room for.
            shapes: What it can execute. It gets other runs only if their shape is unknown.
        """
        return await self._claims.claim_due_runs(owner=owner, limit=limit, shapes=shapes)

    async def claim_isolated_run(
        self, run_id: UUID, *, owner: str, shapes: Collection[str]
    ) -> Lease | None:
        """Take one suspect run (is_isolated) if it is due, of one of the shapes, and its key has room."""
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

    async def record_checkpoint(
        self, lease: Lease, checkpoint: Checkpoint, *, next_step: str | None = None
    ) -> int | None:
        """Keep a step's output, and forget its calls; the first one stays.

        With it the next step is started, as by start_step: its try, the same if told again.

        Raises:
            ValueError: The run has no such step, or the output holds a NaN or infinity.
        """
        return await self._progress.record_checkpoint(lease, checkpoint, next_step=next_step)

    async def finish_run(
        self, lease: Lease, output: Json, email: NewEmail | None = None, *, step: str | None = None
    ) -> None:
        """End a run well, with its email and the checkpoint of its last step, if it has none yet."""
        await self._progress.finish_run(lease, output, email, step=step)

    async def retry_run(
        self,
        lease: Lease,
        *,
        step: str,
        error: str,
        delay_s: float,
        is_counted: bool = True,
        forgotten: Forgotten = (),
    ) -> None:
        """Try a step again in `delay_s` (running -> queued).

        The event is step.retrying {"step", "attempt", "error", "next_at"}.

        Args:
            lease: Its right to the run.
            step: What failed.
            error: Why, for those who watch.
            delay_s: Seconds until the next try.
            is_counted: Whether the try counts against the tries that a step has.
            forgotten: Questions whose answers the next try is not to have; None for all of the step.
        """
        await self._progress.retry_run(
            lease,
            step=step,
            error=error,
            delay_s=delay_s,
            is_counted=is_counted,
            forgotten=forgotten,
        )

    async def park_run(self, lease: Lease, *, step: str, wait_s: float, reason: str) -> None:
        """Let a run wait for Claude without a slot (running -> queued).

        It was no try of the step. The event is step.waiting {"step", "reason", "next_at"}.

        Args:
            lease: Its right to the run.
            step: Where it waits.
            wait_s: Seconds until it is due, at the latest. One that waits for message batches
                ("batch") is due with the last of their results, which may be there already.
            reason: As CallParkedError has it.
        """
        await self._progress.park_run(lease, step=step, wait_s=wait_s, reason=reason)

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

    async def fail_run(self, lease: Lease, failure: Failure, *, forgotten: Forgotten = ()) -> None:
        """End a run badly, and with it the step that was running (running -> failed).

        A replay does not have the answers to the forgotten questions of the step; see retry_run.
        """
        await self._progress.fail_run(lease, failure, forgotten=forgotten)

    # --- calls to Claude ----------------------------------------------------------------------

    async def open_call(self, lease: Lease, opening: CallOpening) -> OpenCall:
        """Reserve what a call can cost at most, of the run's budget and of the key's for today.

        It may be made if cost, doubtful, reserved and worst_usd together are within each budget. A
        call that is open already, but by another reservation, was that of a process that died: what
        was reserved for it becomes doubtful, and counts against both budgets for ever.

        Raises:
            BudgetExceededError: It would not fit either if nothing was reserved.
            BudgetBusyError: It would fit once calls that are under way have cost less than they can.
        """
        return await self._calls.open_call(lease, opening)

    async def settle_call(  # noqa: PLR0913 - a call's name and its end
        self,
        run_id: UUID,
        step: str,
        question: bytes,
        number: int,
        reservation: UUID,
        *,
        usage: Usage,
        cost_usd: Decimal,
        answer: Json | None,
        is_failed: bool = False,
        is_doubtful: bool = False,
    ) -> None:
        """Keep a call's answer, and add what it cost to its step, run, and key's day: once.

        Needs no lease: the money is spent. Told a second time, nothing changes. If the call was
        opened again meanwhile, or is of no use any more, only its cost is kept.

        With the last result of its message batches a run that waits is due.

        Args:
            run_id: The call's run.
            step: The call's step.
            question: What was asked, as it was opened.
            number: As it was opened.
            reservation: What open_call gave.
            usage: What Claude has reported.
            cost_usd: What that cost.
            answer: What ClaudeReply.kept holds. Of a call that failed in a message batch its error:
                {"code", "error_type", "message"}, which the next try raises.
            is_failed: It is to be made again.
            is_doubtful: It may have cost more, up to what was reserved: nobody saw its end.
        """
        await self._calls.settle_call(
            run_id,
            step,
            question,
            number,
            reservation,
            usage=usage,
            cost_usd=cost_usd,
            answer=answer,
            is_failed=is_failed,
            is_doubtful=is_doubtful,
        )

    # --- sweep --------------------------------------------------------------------------------

    async def requeue_lapsed_runs(self, *, limit: int = 500) -> int:
        """Requeue runs whose lease lapsed, and fail runs whose deadline has passed; how many.

        A lapse is put down to a run that was alone in its process: a crash. The others get another
        try, from the fifth lapse in a row on alone. With `max_crashes` a run fails.

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

    async def set_key_limits(
        self, prefix: str, *, daily_budget_usd: Decimal | None, max_running: int | None
    ) -> ApiKey | None:
        """Limit what a key's runs may cost per UTC day, and how many are executed at once.

        None is no limit. Gives the key as it is now, or None if there is no such key.
        """
        return await self._keys.set_key_limits(
            prefix, daily_budget_usd=daily_budget_usd, max_running=max_running
        )

    async def get_key_day(self, key_id: UUID) -> KeyDay:
        """What a key's calls of this UTC day cost so far, and may cost yet."""
        return await self._calls.get_key_day(key_id)

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

    # --- limits of Claude ---------------------------------------------------------------------

    def open_limiter(self, rules: LimitRules) -> CallLimiter:
        """A limiter on this record: all of them together keep Claude's limits."""
        return CallLimiter(self._database, rules=rules)

    async def list_call_limits(self) -> list[CallLimits]:
        """The limits of each model that was called, as all workers share them."""
        return await list_call_limits(self._database)
