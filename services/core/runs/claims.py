"""Taking runs to execute, and holding on to them."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import suppress
from typing import Any
from uuid import UUID

from sqlalchemy import Row, TextClause
from sqlalchemy.ext.asyncio import AsyncConnection

from services.core.db import Database
from services.core.errors import PenstockError
from services.core.runs.encoding import encode_json
from services.core.runs.models import Json, Lease, PastCall
from services.core.runs.sql import statement
from services.core.runs.states import CallState, RunMode

BATCH_GRACE = "24 hours"
"""What a run in batch mode has beyond the usual time: so long may Claude take for a message batch."""


def _claim(due: str) -> TextClause:
    """A statement that claims the due runs of known shape for which `due` holds.

    Nobody waits for a row that another worker is just taking. A run of unknown shape may be
    anybody's; whoever takes it finds out. What is past its deadline is left to the sweep. The fence
    grows, so that whoever held the run before writes nothing any more. Times are the database's: no
    worker's clock decides.
    """
    return statement(
        f"""
        WITH due AS (
            SELECT id, started_at IS NULL AS is_first FROM runs
             WHERE state IN :claim_sources AND next_at <= now()
               AND (shape IS NULL OR shape = ANY (CAST(:shapes AS text[])))
               AND (deadline_at IS NULL OR deadline_at > now())
               AND {due}
               FOR UPDATE SKIP LOCKED),
        claimed AS (
            UPDATE runs
               SET state = :claim_target, fence = fence + 1, attempts = attempts + 1,
                   lease_owner = :owner,
                   lease_until = now() + make_interval(secs => CAST(:ttl_s AS double precision)),
                   started_at = coalesce(started_at, now()),
                   deadline_at = coalesce(deadline_at, now()
                       + make_interval(secs => CAST(:run_timeout_s AS double precision))
                       + CASE runs.mode WHEN :mode_batch THEN interval '{BATCH_GRACE}'
                         ELSE interval '0' END),
                   event_seq = event_seq + CASE WHEN is_first THEN 1 ELSE 0 END
              FROM due
             WHERE runs.id = due.id
         RETURNING runs.*, is_first),
        told AS (
            INSERT INTO events (run_id, seq, type, data)
            SELECT id, event_seq, :event_run_started, '{{}}' FROM claimed WHERE is_first)
        SELECT id, key_id, fence, pipeline, input, traceparent, created_at, budget_usd, shape,
               mode, attempts,
               is_isolated AND lapses > 0 AND crashes = 0 AS is_on_probation,
               extract(epoch FROM deadline_at - now())::double precision AS remaining_s
          FROM claimed
         ORDER BY priority DESC, next_at
        """  # noqa: S608 - constants of this module
    )


CLAIM_DUE_RUNS = _claim(
    "NOT is_isolated ORDER BY priority DESC, next_at LIMIT CAST(:up_to AS bigint)"
)

CLAIM_ISOLATED_RUN = _claim("is_isolated AND id = :run_id")

# A statement of its own, after the claim: its snapshot is younger than the lease, so that it sees
# every checkpoint that an earlier holder committed.
READ_STEPS = statement(
    """
    SELECT run_id, name, failures, state = :step_succeeded AS is_done, output
      FROM steps WHERE run_id = ANY (CAST(:run_ids AS uuid[]))
    """
)

# Only of steps without a checkpoint: a checkpoint deletes the calls of its step.
READ_CALLS = statement(
    """
    SELECT run_id, step, question, number, state, answer, reservation
      FROM claude_calls WHERE run_id = ANY (CAST(:run_ids AS uuid[]))
    """
)

FIND_HELD = statement(
    """
    WITH item AS MATERIALIZED (
        SELECT * FROM json_to_recordset(CAST(:items AS json)) AS item (run_id uuid, fence bigint))
    SELECT runs.id
      FROM runs JOIN item ON runs.id = item.run_id AND runs.fence = item.fence
     WHERE runs.state IN :checkpoint_sources
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
        run_timeout_s: float,
        release: Callable[[Lease], Awaitable[None]],
    ) -> None:
        """Take what claiming needs.

        Args:
            database: Where the runs are.
            lease_ttl_s: Seconds until a silent worker loses its runs.
            run_timeout_s: Seconds from the first claim of an attempt to its deadline.
            release: Gives back what was claimed for a caller that has gone meanwhile.
        """
        self._database = database
        self._lease_ttl_s = lease_ttl_s
        self._run_timeout_s = run_timeout_s
        self._release = release

    async def claim_due_runs(
        self, *, owner: str, limit: int, shapes: Collection[str]
    ) -> list[Lease]:
        """Take up to `limit` due runs."""
        return await self._claim(CLAIM_DUE_RUNS, owner=owner, up_to=limit, shapes=list(shapes))

    async def claim_isolated_run(
        self, run_id: UUID, *, owner: str, shapes: Collection[str]
    ) -> Lease | None:
        """Take one suspect run."""
        leases = await self._claim(
            CLAIM_ISOLATED_RUN, owner=owner, run_id=run_id, shapes=list(shapes)
        )
        return leases[0] if leases else None

    async def find_held(self, leases: Collection[Lease]) -> set[UUID]:
        """The ids of leases that hold."""
        if not leases:
            return set()
        rows = await self._database.fetch(FIND_HELD, {"items": _items(leases)})
        return {row.id for row in rows}

    async def renew_leases(self, leases: Collection[Lease]) -> set[UUID]:
        """Renew leases; the ids that still hold."""
        if not leases:
            return set()
        rows = await self._database.fetch(
            RENEW_LEASES, {"items": _items(leases), "ttl_s": self._lease_ttl_s}
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
            times = {"ttl_s": self._lease_ttl_s, "run_timeout_s": self._run_timeout_s}
            claimed = await connection.execute(claim, {**parameters, **times})
            runs = claimed.all()
            if not runs:
                return []
            read = await connection.execute(READ_STEPS, {"run_ids": [run.id for run in runs]})
            steps = read.all()
            calls = await _read_calls(connection, runs)
        return _leases(runs, steps, calls)


async def _read_calls(
    connection: AsyncConnection, runs: Sequence[Row[Any]]
) -> dict[UUID, list[PastCall]]:
    """The calls of claimed runs; a run that is claimed for the first time has made none."""
    calls: dict[UUID, list[PastCall]] = {run.id: [] for run in runs}
    again = [run.id for run in runs if run.attempts > 1]
    if again:
        for row in await connection.execute(READ_CALLS, {"run_ids": again}):
            calls[row.run_id].append(
                PastCall(
                    step=row.step,
                    question=row.question,
                    number=row.number,
                    state=CallState(row.state),
                    answer=row.answer,
                    reservation=row.reservation,
                )
            )
    return calls


def _items(leases: Collection[Lease]) -> str:
    """Leases as the items of a statement."""
    return encode_json([{"run_id": lease.run_id, "fence": lease.fence} for lease in leases])


def _leases(
    runs: Sequence[Row[Any]], steps: Sequence[Row[Any]], calls: Mapping[UUID, list[PastCall]]
) -> list[Lease]:
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
            key_id=run.key_id,
            fence=run.fence,
            pipeline=run.pipeline,
            input=run.input,
            checkpoints=checkpoints[run.id],
            step_attempts=failures[run.id],
            traceparent=run.traceparent,
            created_at=run.created_at,
            remaining_s=run.remaining_s,
            shape=run.shape,
            budget_usd=run.budget_usd,
            is_on_probation=run.is_on_probation,
            mode=RunMode(run.mode),
            calls=tuple(calls[run.id]),
        )
        for run in runs
    ]
