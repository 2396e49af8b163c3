"""What brings runs back that nobody is at work on."""

from services.core.clock import monotonic_s
from services.core.db import Database
from services.core.errors import StoreUnavailableError
from services.core.runs.models import DueHint
from services.core.runs.sql import statement

# A lease lapsed: its holder died, or was cut off. The run goes on alone from now on, because it may
# be what killed the process; the first time at once, then after 4, 8, ... seconds. With the last
# crash it fails. Right after PostgreSQL itself was away, holders get the time of one lease to renew
# first.
REQUEUE_LAPSED_RUNS = statement(
    """
    WITH lapsed AS (
        SELECT id, crashes + 1 AS crashes, crashes + 1 >= CAST(:max_crashes AS integer) AS is_last
          FROM runs
         WHERE state IN :lapse_sources AND lease_until < now()
           AND pg_postmaster_start_time()
               < now() - make_interval(secs => CAST(:ttl_s AS double precision))
         ORDER BY id
         LIMIT CAST(:up_to AS bigint)
           FOR UPDATE SKIP LOCKED),
    delayed AS (
        SELECT *, now() + CASE WHEN crashes = 1 THEN interval '0'
                          ELSE make_interval(secs => least(power(2, crashes), 30)) END AS next_at
          FROM lapsed),
    changed AS (
        UPDATE runs
           SET crashes = delayed.crashes, is_isolated = true,
               lease_owner = NULL, lease_until = NULL,
               next_at = delayed.next_at, hint_at = delayed.next_at,
               state = CASE WHEN is_last THEN :crash_out_target ELSE :lapse_target END,
               finished_at = CASE WHEN is_last THEN now() END,
               event_seq = event_seq + CASE WHEN is_last THEN 1 ELSE 0 END,
               failure = CASE WHEN is_last THEN jsonb_build_object(
                   'reason', :reason_crashed,
                   'step', (SELECT name FROM steps
                             WHERE run_id = runs.id AND steps.state = :step_running LIMIT 1),
                   'message', 'The process that executed the run died.',
                   'attempts', delayed.crashes) END
          FROM delayed
         WHERE runs.id = delayed.id
     RETURNING runs.id, is_last, event_seq, failure),
    stopped AS (
        UPDATE steps
           SET state = CASE WHEN is_last THEN :step_failed ELSE :step_pending END,
               finished_at = CASE WHEN is_last THEN now() END,
               error = 'The process that executed the step died.'
          FROM changed
         WHERE steps.run_id = changed.id AND steps.state = :step_running),
    told AS (
        INSERT INTO events (run_id, seq, type, data)
        SELECT id, event_seq, :event_run_failed, failure FROM changed WHERE is_last)
    SELECT count(*) AS requeued FROM changed
    """
)

# hint_at is never before next_at, so what is to be hinted is due.
TAKE_DUE_HINTS = statement(
    """
    WITH due AS (
        SELECT id FROM runs
         WHERE state IN :claim_sources AND hint_at <= now()
         ORDER BY hint_at
         LIMIT CAST(:up_to AS bigint)
           FOR UPDATE SKIP LOCKED)
    UPDATE runs
       SET hint_at = now() + make_interval(secs => CAST(:rehint_after_s AS double precision))
      FROM due
     WHERE runs.id = due.id
 RETURNING runs.id, runs.is_isolated
    """
)


class RunSweeps:
    """Requeues and hints. RunStore says what each method promises."""

    def __init__(
        self, database: Database, *, lease_ttl_s: float, max_crashes: int, rehint_after_s: float
    ) -> None:
        self._database = database
        self._lease_ttl_s = lease_ttl_s
        self._max_crashes = max_crashes
        self._rehint_after_s = rehint_after_s
        self._absent_at_s: float | None = None

    async def requeue_lapsed_runs(self, *, limit: int) -> int:
        """Requeue or fail runs whose lease lapsed; how many."""
        if self._is_after_absence():
            return 0
        try:
            rows = await self._database.fetch(
                REQUEUE_LAPSED_RUNS,
                {"max_crashes": self._max_crashes, "ttl_s": self._lease_ttl_s, "up_to": limit},
            )
        except StoreUnavailableError:
            self._absent_at_s = monotonic_s()
            raise
        return int(rows[0].requeued)

    async def take_due_hints(self, *, limit: int) -> list[DueHint]:
        """The runs to hint now."""
        rows = await self._database.fetch(
            TAKE_DUE_HINTS, {"up_to": limit, "rehint_after_s": self._rehint_after_s}
        )
        return [DueHint(run_id=row.id, is_isolated=row.is_isolated) for row in rows]

    def _is_after_absence(self) -> bool:
        """Whether PostgreSQL did not answer a sweep within the last lease.

        When it froze or could not be reached, and did not restart, it looks as if every holder had
        died, while they only could not renew. They get the time of one lease, as after a restart.
        """
        absent_at_s = self._absent_at_s
        return absent_at_s is not None and monotonic_s() - absent_at_s < self._lease_ttl_s
