"""Taking runs to execute, and holding on to them."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any
from uuid import UUID

from sqlalchemy import Row, TextClause

from services.core.db import Database
from services.core.errors import PenstockError
from services.core.runs.encoding import encode_json
from services.core.runs.models import Json, Lease
from services.core.runs.sql import statement


def _claim(due: str) -> TextClause:
    """A statement that claims the runs that `due` selects and locks.

    The fence grows, so that whoever held the run before writes nothing any more. Times are the
    database's: no worker's clock decides.
    """
    return statement(
        f"""
        WITH due AS ({due}),
        claimed AS (
            UPDATE runs
               SET state = :claim_target, fence = fence + 1, attempts = attempts + 1,
                   lease_owner = :owner,
                   lease_until = now() + make_interval(secs => CAST(:ttl_s AS double precision)),
                   started_at = coalesce(started_at, now()),
                   event_seq = event_seq + CASE WHEN started_at IS NULL THEN 1 ELSE 0 END
              FROM due
             WHERE runs.id = due.id
         RETURNING runs.*),
        told AS (
            INSERT INTO events (run_id, seq, type, data)
            SELECT id, event_seq, :event_run_started, '{{}}' FROM claimed WHERE attempts = 1)
        SELECT id, fence, pipeline, input, traceparent, created_at, budget_usd
          FROM claimed
         ORDER BY priority DESC, next_at
        """  # noqa: S608 - constants of this module
    )


# Nobody waits for a row that another worker is just taking.
CLAIM_DUE_RUNS = _claim(
    """
    SELECT id FROM runs
     WHERE state IN :claim_sources AND NOT is_isolated AND next_at <= now()
     ORDER BY priority DESC, next_at
     LIMIT CAST(:up_to AS bigint)
       FOR UPDATE SKIP LOCKED
    """
)

CLAIM_ISOLATED_RUN = _claim(
    """
    SELECT id FROM runs
     WHERE id = :run_id AND state IN :claim_sources AND is_isolated AND next_at <= now()
       FOR UPDATE SKIP LOCKED
    """
)

# A statement of its own, after the claim: its snapshot is younger than the lease, so that it sees
# every checkpoint that an earlier holder committed.
READ_STEPS = statement(
    """
    SELECT run_id, name, failures, state = :step_succeeded AS is_done, output
      FROM steps WHERE run_id = ANY (CAST(:run_ids AS uuid[]))
    """
)

RENEW_LEASES = statement(
    """
    WITH item AS MATERIALIZED (
        SELECT * FROM json_to_recordset(CAST(:items AS json)) AS item (run_id uuid, fence bigint)),
    held AS (
        SELECT runs.id
          FROM runs JOIN item ON runs.id = item.run_id AND runs.fence = item.fence
         WHERE runs.state IN :checkpoint_sources
         ORDER BY runs.id
           FOR UPDATE OF runs)
    UPDATE runs
       SET lease_until = now() + make_interval(secs => CAST(:ttl_s AS double precision))
      FROM held
     WHERE runs.id = held.id
 RETURNING runs.id
    """
)


class RunClaims:
    """Takes runs and renews leases. RunStore says what each method promises."""

    def __init__(
        self,
        database: Database,
        *,
        lease_ttl_s: float,
        release: Callable[[Lease], Awaitable[None]],
    ) -> None:
        """Take what claiming needs.

        Args:
            database: Where the runs are.
            lease_ttl_s: Seconds until a silent worker loses its runs.
            release: Gives back what was claimed for a caller that has gone meanwhile.
        """
        self._database = database
        self._lease_ttl_s = lease_ttl_s
        self._release = release

    async def claim_due_runs(self, *, owner: str, limit: int) -> list[Lease]:
        """Take up to `limit` due runs."""
        return await self._claim(CLAIM_DUE_RUNS, owner=owner, up_to=limit)

    async def claim_isolated_run(self, run_id: UUID, *, owner: str) -> Lease | None:
        """Take one suspect run."""
        leases = await self._claim(CLAIM_ISOLATED_RUN, owner=owner, run_id=run_id)
        return leases[0] if leases else None

    async def renew_leases(self, leases: Sequence[Lease]) -> set[UUID]:
        """Renew leases; the ids that still hold."""
        if not leases:
            return set()
        items = [{"run_id": lease.run_id, "fence": lease.fence} for lease in leases]
        rows = await self._database.fetch(
            RENEW_LEASES, {"items": encode_json(items), "ttl_s": self._lease_ttl_s}
        )
        return {row.id for row in rows}

    async def _claim(self, claim: TextClause, **parameters: Any) -> list[Lease]:
        """Claim; a caller that is cancelled meanwhile leaves no run behind that nobody executes."""
        claiming = asyncio.create_task(self._claim_and_read(claim, parameters))
        try:
            return await asyncio.shield(claiming)
        except asyncio.CancelledError:
            with suppress(PenstockError):  # else the lease lapses, as that of a dead worker does
                for lease in await claiming:
                    await self._release(lease)
            raise

    async def _claim_and_read(
        self, claim: TextClause, parameters: Mapping[str, Any]
    ) -> list[Lease]:
        """Claim runs and read what their steps left behind, in one transaction."""
        async with self._database.transaction() as connection:
            claimed = await connection.execute(claim, {**parameters, "ttl_s": self._lease_ttl_s})
            runs = claimed.all()
            if not runs:
                return []
            read = await connection.execute(READ_STEPS, {"run_ids": [run.id for run in runs]})
            steps = read.all()
        return _leases(runs, steps)


def _leases(runs: Sequence[Row[Any]], steps: Sequence[Row[Any]]) -> list[Lease]:
    """The leases on claimed runs, in the runs' order."""
    checkpoints: dict[UUID, dict[str, Json]] = {run.id: {} for run in runs}
    failures: dict[UUID, dict[str, int]] = {run.id: {} for run in runs}
    for step in steps:
        failures[step.run_id][step.name] = step.failures
        if step.is_done:
            checkpoints[step.run_id][step.name] = step.output
    return [
        Lease(
            run_id=run.id,
            fence=run.fence,
            pipeline=run.pipeline,
            input=run.input,
            checkpoints=checkpoints[run.id],
            step_attempts=failures[run.id],
            traceparent=run.traceparent,
            created_at=run.created_at,
            budget_usd=run.budget_usd,
        )
        for run in runs
    ]
