"""Ending a run because its owner asks for it."""

from uuid import UUID

from services.core.db import Database
from services.core.runs.sql import statement

# The fence grows, so that a holder writes nothing any more. The time is that of the change and not
# of the statement's begin, which may lie before the claim that it had to wait for. For the same
# reason every step that is not done is looked at again: one may have been started meanwhile.
CANCEL_RUN = statement(
    """
    WITH changed AS (
        UPDATE runs
           SET state = :cancel_target, fence = fence + 1, lease_owner = NULL, lease_until = NULL,
               finished_at = clock_timestamp(), event_seq = event_seq + 1
         WHERE id = :run_id AND key_id = :key_id AND state IN :cancel_sources
     RETURNING id, event_seq, finished_at),
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
        SELECT id, event_seq, :event_run_cancelled, '{}', finished_at FROM changed)
    SELECT id FROM changed
    """
)


async def cancel_run(database: Database, key_id: UUID, run_id: UUID) -> bool:
    """Cancel a run; whether there was one of that key that had not ended."""
    rows = await database.fetch(CANCEL_RUN, {"key_id": key_id, "run_id": run_id})
    return bool(rows)
