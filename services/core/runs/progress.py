"""What the holder of a lease writes while it executes a run, many holders at a time."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any
from uuid import UUID

from services.core.db import Database, Statement
from services.core.errors import LeaseLostError
from services.core.pool import Row
from services.core.runs import statements
from services.core.runs.batcher import Batcher
from services.core.runs.encoding import encode_json
from services.core.runs.models import Checkpoint, Failure, Forgotten, Json, Lease, NewEmail


class _FencedWrites:
    """One of the statements, run on what several callers want."""

    def __init__(self, database: Database, statement: Statement) -> None:
        self._database = database
        self._statement = statement
        self._batcher: Batcher[UUID, Row] = Batcher(self._write)

    async def submit(self, lease: Lease, **item: Any) -> Row:
        """Have an item written under a lease.

        Raises:
            LeaseLostError: The lease does not hold any more.
        """
        encoded = encode_json({"run_id": lease.run_id, "fence": lease.fence, **item})
        row = await self._batcher.submit(lease.run_id, encoded)
        if row is None:
            raise LeaseLostError
        return row

    async def drain(self) -> None:
        """Wait until everything submitted so far is written."""
        await self._batcher.drain()

    async def _write(self, items: Sequence[str]) -> Mapping[UUID, Row]:
        """Run the statement; its rows by run."""
        rows = await self._database.fetch(self._statement, {"items": f"[{','.join(items)}]"})
        return {row.run_id: row for row in rows}


class RunProgress:
    """Writes what happens to runs that are held. RunStore says what each method promises."""

    def __init__(self, database: Database) -> None:
        self._starts = _FencedWrites(database, statements.START_STEPS)
        self._checkpoints = _FencedWrites(database, statements.RECORD_CHECKPOINTS)
        self._finishes = _FencedWrites(database, statements.FINISH_RUNS)
        self._retries = _FencedWrites(database, statements.RETRY_RUNS)
        self._parkings = _FencedWrites(database, statements.PARK_RUNS)
        self._releases = _FencedWrites(database, statements.RELEASE_RUNS)
        self._failures = _FencedWrites(database, statements.FAIL_RUNS)

    async def start_step(self, lease: Lease, step: str) -> int:
        """Count a try of the step."""
        row = await self._starts.submit(lease, step=step)
        if row.attempts is None:
            message = f"run {lease.run_id} has no step {step!r} to start: unknown, or done already"
            raise ValueError(message)
        return int(row.attempts)

    async def record_checkpoint(
        self, lease: Lease, checkpoint: Checkpoint, *, next_step: str | None = None
    ) -> int | None:
        """Keep a step's output, and count a try of the next step."""
        step = checkpoint.step
        row = await self._checkpoints.submit(
            lease, step=step, output=checkpoint.output, next_step=next_step
        )
        if not row.is_known:
            message = f"run {lease.run_id} has no step {step!r}"
            raise ValueError(message)
        return None if row.next_attempt is None else int(row.next_attempt)

    async def finish_run(
        self, lease: Lease, output: Json, email: NewEmail | None, *, step: str | None
    ) -> None:
        """End a run well."""
        await self._finishes.submit(lease, step=step, output=output, **_email(email))

    async def retry_run(
        self,
        lease: Lease,
        *,
        step: str,
        error: str,
        delay_s: float,
        is_counted: bool,
        forgotten: Forgotten,
    ) -> None:
        """Requeue a run after a failed try."""
        await self._retries.submit(
            lease,
            step=step,
            error=error,
            delay_s=delay_s,
            is_counted=is_counted,
            **_forgotten(forgotten),
        )

    async def park_run(self, lease: Lease, *, step: str, wait_s: float, reason: str) -> None:
        """Requeue a run that waits for Claude."""
        is_batch = reason == "batch"
        await self._parkings.submit(
            lease, step=step, wait_s=wait_s, reason=reason, is_batch=is_batch
        )

    async def release_run(
        self, lease: Lease, *, delay_s: float = 0.0, is_cleared: bool = False
    ) -> None:
        """Give a run back."""
        await self._releases.submit(lease, delay_s=delay_s, is_cleared=is_cleared)

    async def fail_run(self, lease: Lease, failure: Failure, *, forgotten: Forgotten) -> None:
        """End a run badly."""
        await self._failures.submit(
            lease, step=failure.step, failure=asdict(failure), **_forgotten(forgotten)
        )

    async def drain(self) -> None:
        """Wait until everything submitted so far is written."""
        for writes in vars(self).values():
            await writes.drain()


def _email(email: NewEmail | None) -> Json:
    """The columns of an item that hold an email."""
    if email is None:
        return {}
    return {
        "email_id": email.id,
        "template_type": email.template_type,
        "subject": email.subject,
        "body": email.body,
        "email_metadata": email.metadata,
    }


def _forgotten(forgotten: Forgotten) -> Json:
    """The columns of an item that say which calls of the step are of no use any more."""
    return {"forgets_all": forgotten is None, "forgotten": list(forgotten or ())}
