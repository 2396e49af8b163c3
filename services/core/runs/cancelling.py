"""Ending runs because their owner asks for it."""

from collections.abc import Collection
from uuid import UUID

from services.core.db import Database
from services.core.runs.call_statements import forgetting
from services.core.runs.sql import statement

# The fence grows, so that a holder writes nothing any more. The time is that of the change and not
# of the statement's begin, which may lie before the claim that it had to wait for. For the same
# reason every step that is not done is looked at again: one may have been started meanwhile.
# Locked in the order of ids, as every batch.
CANCEL_RUNS = statement(
    f"""
    WITH wanted AS MATERIALIZED (
        SELECT id FROM runs
         WHERE id = ANY (CAST(:run_ids AS uuid[])) AND key_id = :key_id
           AND state IN :cancel_sources
         ORDER BY id
           FOR UPDATE),
    {forgetting("USING wanted WHERE run_id = wanted.id AND state = :call_open")},
    changed AS (
        UPDATE runs
           SET state = :cancel_target, fence = fence + 1, lease_owner = NULL, lease_until = NULL,
               finished_at = clock_timestamp(), event_seq = event_seq + 1,
               :free_calls_of_runs
          FROM wanted
         WHERE runs.id = wanted.id AND runs.state IN :cancel_sources
     RETURNING runs.id, event_seq, finished_at),
    stopped AS (
        UPDATE steps
           SET state = CASE steps.state WHEN :step_running THEN :step_failed
                       ELSE steps.state END,
               finished_at = CASE steps.state WHEN :step_running THEN changed.finished_at
                             ELSE steps.finished_at END,
               error = CASE steps.state WHEN :step_running THEN 'The run was cancelled.'
                       ELSE steps.error END
          FROM changed
         WHERE steps.run_id = changed.id AND steps.state <> :step_succeeded),
    told AS (
        INSERT INTO events (run_id, seq, type, data, at)
        SELECT id, event_seq, :event_run_cancelled, '{{}}', finished_at FROM changed)
    SELECT id FROM changed
    """  # noqa: S608 - constants of other modules
)


async def cancel_runs(database: Database, key_id: UUID, run_ids: Collection[UUID]) -> int:
    """Cancel runs; how many there were of that key that had not ended."""
    rows = await database.fetch(CANCEL_RUNS, {"key_id": key_id, "run_ids": list(run_ids)})
    return len(rows)
