"""The record in numbers, and which processes are alive."""

import asyncio
from collections.abc import Collection

from services.core.clock import monotonic_s
from services.core.db import Database
from services.core.pool import Row
from services.core.runs.models import Heartbeat, RunTotals, StepTotals
from services.core.runs.sql import COST_COLUMNS, statement
from services.core.runs.states import FailureReason, RunState
from services.core.usage import Usage

PING = statement("SELECT 1")

RECORD_HEARTBEAT = statement(
    """
    INSERT INTO heartbeats (process, kind, shapes)
    VALUES (:process, :kind, CAST(:shapes AS text[]))
        ON CONFLICT (process) DO UPDATE
       SET kind = excluded.kind, shapes = excluded.shapes, at = now()
    """
)

# Processes come and go with their containers; those that have been silent for a day are forgotten.
LIST_HEARTBEATS = statement(
    """
    SELECT process, kind, extract(epoch FROM now() - at)::double precision AS age_s
      FROM heartbeats
     WHERE at > now() - interval '1 day'
     ORDER BY kind, process
    """
)

COUNT_RUNS = statement(
    """
    SELECT state, failure ->> 'reason' AS reason, count(*) AS runs FROM runs GROUP BY 1, 2
    """
)

COUNT_DUE_RUNS = statement(
    """
    SELECT count(*) AS runs,
           coalesce(extract(epoch FROM now() - min(next_at)), 0)::double precision AS oldest_age_s,
           count(*) FILTER (
               WHERE next_at < now() - make_interval(secs => CAST(:overdue_s AS double precision))
                 AND shape <> ALL (ARRAY(
                         SELECT unnest(shapes) FROM heartbeats
                          WHERE at > now()
                                - make_interval(secs => CAST(:fresh_s AS double precision))))
           ) AS unclaimable_runs
      FROM runs
     WHERE state = :run_queued AND next_at <= now()
    """
)

COUNT_BATCHED_CALLS = statement(
    """
    SELECT count(*) FILTER (WHERE state = :call_waiting) AS waiting_calls,
           count(*) FILTER (WHERE state = :call_submitted) AS submitted_calls,
           (SELECT count(*) FROM message_batches WHERE state <> :message_batch_ended)
               AS open_message_batches
      FROM claude_calls
     WHERE state IN (:call_waiting, :call_submitted)
    """
)

DURATION_BOUNDS_S = (0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)

# A step's duration is that of its last try: waiting for a retry is no work.
COUNT_STEPS = statement(
    f"""
    SELECT pipeline, name, count(duration_s) AS succeeded, sum(failures) AS failures,
           coalesce(sum(duration_s), 0) AS duration_s,
           jsonb_build_array({
        ", ".join(
            f"count(*) FILTER (WHERE duration_s <= {bound_s})" for bound_s in DURATION_BOUNDS_S
        )
    }) AS durations,
           {", ".join(f"sum({column}) AS {column}" for column in COST_COLUMNS)}
      FROM (SELECT runs.pipeline, steps.*,
                   CASE WHEN steps.state = :step_succeeded THEN
                       extract(epoch FROM steps.finished_at - steps.started_at)::double precision
                   END AS duration_s
              FROM steps JOIN runs ON runs.id = steps.run_id) AS step
     GROUP BY pipeline, name
     ORDER BY pipeline, min(position)
    """  # noqa: S608 - constants of this module
)
TOTALS_MAX_AGE_S = 5.0


class Vitals:
    """Counts and heartbeats. RunStore says what each method promises."""

    def __init__(
        self, database: Database, *, counting: Database, lease_ttl_s: float, rehint_after_s: float
    ) -> None:
        """Take what counting needs.

        Args:
            database: Where the record is.
            counting: The same, with more patience.
            lease_ttl_s: Seconds of silence after which a process counts as dead.
            rehint_after_s: Seconds after which a due run should have found a taker.
        """
        self._database = database
        self._counting_database = counting
        self._times = {"fresh_s": lease_ttl_s, "overdue_s": rehint_after_s}
        self._totals: RunTotals | None = None
        self._counted_at_s = 0.0
        self._counting: asyncio.Task[RunTotals] | None = None

    async def ping(self) -> float:
        """Round trip in seconds."""
        began_s = monotonic_s()
        await self._database.fetch(PING)
        return monotonic_s() - began_s

    async def record_heartbeat(self, *, process: str, kind: str, shapes: Collection[str]) -> None:
        """Note that a process is at work now."""
        await self._database.fetch(
            RECORD_HEARTBEAT, {"process": process, "kind": kind, "shapes": sorted(shapes)}
        )

    async def list_heartbeats(self) -> list[Heartbeat]:
        """The latest heartbeat of each process."""
        rows = await self._database.fetch(LIST_HEARTBEATS)
        return [Heartbeat(process=row.process, kind=row.kind, age_s=row.age_s) for row in rows]

    async def get_totals(self) -> RunTotals:
        """The record in numbers, TOTALS_MAX_AGE_S old at most: adding up takes a while."""
        if self._totals is not None and monotonic_s() - self._counted_at_s < TOTALS_MAX_AGE_S:
            return self._totals
        if self._counting is None or self._counting.done():
            self._counting = asyncio.create_task(self._count())
        return await asyncio.shield(self._counting)  # one count serves all who ask meanwhile

    async def _count(self) -> RunTotals:
        """Ask PostgreSQL."""
        database = self._counting_database
        runs = await database.fetch(COUNT_RUNS)
        due = (await database.fetch(COUNT_DUE_RUNS, self._times))[0]
        [batched] = await database.fetch(COUNT_BATCHED_CALLS)
        steps = await database.fetch(COUNT_STEPS)
        by_state = dict.fromkeys(RunState, 0)
        by_reason = dict.fromkeys(FailureReason, 0)
        for row in runs:
            by_state[RunState(row.state)] += row.runs
            if row.reason is not None:
                by_reason[FailureReason(row.reason)] += row.runs
        self._totals = RunTotals(
            runs_by_state=by_state,
            failures_by_reason=by_reason,
            due_runs=due.runs,
            oldest_due_age_s=due.oldest_age_s,
            unclaimable_runs=due.unclaimable_runs,
            waiting_calls=batched.waiting_calls,
            submitted_calls=batched.submitted_calls,
            open_message_batches=batched.open_message_batches,
            steps=tuple(_step_totals(row) for row in steps),
        )
        self._counted_at_s = monotonic_s()
        return self._totals


def _step_totals(row: Row) -> StepTotals:
    """The totals of a step from their row."""
    return StepTotals(
        pipeline=row.pipeline,
        step=row.name,
        succeeded=row.succeeded,
        failures=row.failures,
        duration_s=row.duration_s,
        durations=dict(zip(DURATION_BOUNDS_S, row.durations, strict=True)),
        usage=Usage(
            input_tokens=int(row.input_tokens),
            output_tokens=int(row.output_tokens),
            cache_read_input_tokens=int(row.cache_read_input_tokens),
            cache_creation_input_tokens=int(row.cache_creation_input_tokens),
        ),
        cost_usd=row.cost_usd,
    )
