"""What clients ask of the record: accepting, reading, cancelling and replaying their own runs."""

from collections.abc import Mapping, Sequence
from decimal import Decimal
from uuid import UUID

from services.core.db import Database
from services.core.errors import RunNotCancellableError
from services.core.pool import Pool
from services.core.runs.acceptance import Accepted, RunAcceptance, accepted_run
from services.core.runs.batches import BatchRecord
from services.core.runs.cancelling import cancel_runs
from services.core.runs.emails import EmailReader
from services.core.runs.models import DueHint, Email, Event, Json, NewRun, Page, PastAttempt, Run
from services.core.runs.reading import RunFilter, RunReader
from services.core.runs.replays import FailedRuns, RunReplays
from services.core.runs.states import FailureReason, RunState


class ClientRecord:
    """The part of RunStore that knows no leases; a key sees its own runs only."""

    def __init__(
        self,
        pool: Pool,
        acceptance: RunAcceptance,
        *,
        timeout_s: float,
        rehint_after_s: float,
    ) -> None:
        database = Database(pool, timeout_s=timeout_s)
        self._record = database
        self._acceptance = acceptance
        self._reader = RunReader(database)
        self._emails = EmailReader(database)
        self._replays = RunReplays(database, acceptance, rehint_after_s=rehint_after_s)
        self.batches = BatchRecord(
            pool, acceptance, timeout_s=timeout_s, rehint_after_s=rehint_after_s
        )
        """Batches of runs, as clients see them."""

    async def accept(self, new: NewRun) -> Accepted:
        """Commit a run with its steps (pending) and first event.

        The same idempotency key with the same request_hash gives the run that it made before.

        Raises:
            IdempotencyConflictError: The idempotency key was used with another request_hash.
            KeyRevokedError: There is no such API key any more, or it is revoked.
            QueueFullError: Too many runs are queued.
            ValueError: Input or metadata holds a NaN or infinity.
        """
        return await self._acceptance.accept(new)

    async def accept_run(self, new: NewRun) -> tuple[Run, bool]:
        """The run that `accept` commits or finds, and whether it is new."""
        accepted = await self._acceptance.accept(new)
        if accepted.created_at is None:
            return await self._reader.get_run(new.key_id, accepted.run_id), False
        return accepted_run(new, run_id=accepted.run_id, created_at=accepted.created_at), True

    async def cancel_run(self, key_id: UUID, run_id: UUID) -> Run:
        """End a run early; a holder finds out when it next writes or renews.

        Raises:
            RunNotFoundError: The key has no such run.
            RunNotCancellableError: It has ended already.
        """
        is_cancelled = await cancel_runs(self._record, key_id, [run_id])
        run = await self._reader.get_run(key_id, run_id)
        if not is_cancelled:
            raise RunNotCancellableError
        return run

    async def get_run(self, key_id: UUID, run_id: UUID) -> Run:
        """One run.

        Raises:
            RunNotFoundError: The key has no such run.
        """
        return await self._reader.get_run(key_id, run_id)

    async def list_runs(
        self,
        key_id: UUID,
        *,
        state: RunState | None = None,
        pipeline: str | None = None,
        batch_id: UUID | None = None,
        cursor: str | None = None,
        limit: int = 50,
    ) -> Page[Run]:
        """Runs of a key, newest first.

        Raises:
            MalformedCursorError: The cursor is not one that a page gave; a ValueError.
        """
        wanted = RunFilter(state=state, pipeline=pipeline, batch_id=batch_id)
        return await self._reader.list_runs(key_id, wanted, cursor=cursor, limit=limit)

    async def list_dead_letters(
        self,
        key_id: UUID,
        *,
        pipeline: str | None = None,
        reason: FailureReason | None = None,
        cursor: str | None = None,
        limit: int = 50,
    ) -> Page[Run]:
        """Failed runs of a key, newest first.

        Raises:
            MalformedCursorError: The cursor is not one that a page gave; a ValueError.
        """
        wanted = RunFilter(state=RunState.FAILED, pipeline=pipeline, reason=reason)
        return await self._reader.list_runs(key_id, wanted, cursor=cursor, limit=limit)

    async def list_history(self, key_id: UUID, run_id: UUID) -> list[PastAttempt]:
        """What a run was before each of its replays, oldest first.

        Raises:
            RunNotFoundError: The key has no such run.
        """
        return await self._reader.list_history(key_id, run_id)

    async def replay_run(
        self,
        key_id: UUID,
        run_id: UUID,
        *,
        step_names: tuple[str, ...],
        from_step: str | None,
        input: Json | None,  # noqa: A002 - the record's word
        budget_usd: Decimal | None = None,
    ) -> Run:
        """Execute an ended run again, as a new attempt of the same run (failed -> queued).

        The past attempt goes to the history; cost, events and tries of steps go on counting.

        Args:
            key_id: The key that the run must belong to.
            run_id: A failed or cancelled run.
            step_names: The steps of its pipeline today.
            from_step: The first step to be executed; None for the first without a checkpoint.
            input: In place of the run's input, if it begins with the first step.
            budget_usd: In place of the run's budget. Without a step and an input, answers of Claude
                that the failed step had already are used again.

        Raises:
            RunNotFoundError: The key has no such run.
            RunNotReplayableError: It has neither failed nor was it cancelled.
            ReplayStepError: The step or the input does not allow it.
            QueueFullError: Too many runs are queued.
            ValueError: The input holds a NaN or infinity.
        """
        await self._replays.replay_run(
            key_id,
            run_id,
            step_names=step_names,
            from_step=from_step,
            input=input,
            budget_usd=budget_usd,
        )
        return await self._reader.get_run(key_id, run_id)

    async def replay_failed_runs(
        self,
        key_id: UUID,
        *,
        ids: Sequence[UUID] | None = None,
        pipeline: str | None = None,
        reason: FailureReason | None = None,
        batch_id: UUID | None = None,
        shapes: Mapping[str, tuple[str, ...]],
    ) -> list[DueHint]:
        """Replay runs that had failed when this began, each from its first step without checkpoint.

        Args:
            key_id: The key that the runs must belong to.
            ids: Only these.
            pipeline: Only those of this pipeline.
            reason: Only those that failed for this reason.
            batch_id: Only those of this batch.
            shapes: The steps of every pipeline today; runs of others are left alone.

        Raises:
            QueueFullError: Too many runs were queued before the first was replayed. If the queue
                fills up later, those that were replayed are returned; calling again does the rest.
        """
        wanted = FailedRuns(ids=ids, pipeline=pipeline, reason=reason, batch_id=batch_id)
        return await self._replays.replay_failed_runs(key_id, wanted, shapes=shapes)

    async def list_events(self, after: Mapping[UUID, int], *, limit: int = 1000) -> list[Event]:
        """Events of several runs at once, each after its own seq, ordered by (run_id, seq)."""
        return await self._reader.list_events(after, limit=limit)

    async def get_email(self, key_id: UUID, email_id: UUID) -> Email:
        """One email.

        Raises:
            RunNotFoundError: The key has no such email.
        """
        return await self._emails.get_email(key_id, email_id)

    async def list_emails(
        self,
        key_id: UUID,
        *,
        template_type: str | None = None,
        run_id: UUID | None = None,
        metadata: Json | None = None,
        cursor: str | None = None,
        limit: int = 50,
    ) -> Page[Email]:
        """Emails of a key, newest first; `metadata` must be contained in theirs.

        Raises:
            MalformedCursorError: The cursor is not one that a page gave; a ValueError.
        """
        return await self._emails.list_emails(
            key_id,
            template_type=template_type,
            run_id=run_id,
            metadata=metadata,
            cursor=cursor,
            limit=limit,
        )
