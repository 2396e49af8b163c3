"""What brings runs back that nobody is at work on."""

from uuid import UUID

from services.core.db import Database, Statement
from services.core.runs.call_statements import forgetting
from services.core.runs.models import DueHint
from services.core.runs.sql import statement

SUSPECT_LAPSES = 5
"""Lapses in a row, without a checkpoint, after which a run goes on alone.

Each one costs its neighbours a process, and too few make suspects of all that a worker held when it
was killed twice by somebody else: these go on a few at a time.
"""


CALLS_OF_ENDED = forgetting(
    """
             USING judged
             WHERE claude_calls.run_id = judged.id AND reason IS NOT NULL
               AND claude_calls.state = :call_open
    """
)


def _take_back(gone: str) -> Statement:
    """A statement that takes back the runs in `gone`, or ends those that may not go on.

    `gone` are CTEs, the last of them `gone` itself: runs that are locked, and for each
    `is_charged`, whether a death is put down to it, and `is_shared`, whether it lapsed and nobody
    can say whose fault it was. Such a run goes on at once among others, and alone after
    SUSPECT_LAPSES in a row. One that is charged goes on alone: at once the first time, then after 4, 8, ...
    seconds, and with the last crash it fails. A run fails too when its deadline has passed.
    """
    return statement(
        f"""
        WITH {gone},
        counted AS (
            SELECT gone.*, crashes + is_charged::integer AS new_crashes,
                   lapses + is_shared::integer AS new_lapses
              FROM gone),
        judged AS (
            SELECT counted.*, step.name AS step, step.attempts AS step_attempts,
                   CASE WHEN is_charged AND new_crashes >= CAST(:max_crashes AS integer)
                        THEN :reason_crashed
                        WHEN deadline_at < now() THEN :reason_timed_out END AS reason,
                   now() + CASE WHEN is_charged AND new_crashes > 1
                           THEN make_interval(secs => least(power(2, new_crashes), 30))
                           ELSE interval '0' END AS new_next_at
              FROM counted
              LEFT JOIN LATERAL (
                  SELECT name, attempts FROM steps
                   WHERE run_id = counted.id AND state <> :step_succeeded
                   ORDER BY position LIMIT 1) AS step ON true),
        {CALLS_OF_ENDED},
        changed AS (
            UPDATE runs
               SET crashes = new_crashes, lapses = new_lapses,
                   is_isolated = runs.is_isolated OR is_charged OR new_lapses >= {SUSPECT_LAPSES},
                   lease_owner = NULL, lease_until = NULL,
                   next_at = new_next_at, hint_at = new_next_at,
                   state = CASE reason WHEN :reason_crashed THEN :crash_out_target
                                       WHEN :reason_timed_out THEN :expire_target
                                       ELSE :lapse_target END,
                   finished_at = CASE WHEN reason IS NOT NULL THEN now() END,
                   event_seq = event_seq + CASE WHEN reason IS NULL THEN 0 ELSE 1 END,
                   failure = CASE WHEN reason IS NOT NULL THEN jsonb_build_object(
                       'reason', reason, 'step', step,
                       'message', CASE reason WHEN :reason_crashed THEN message
                                  ELSE 'The run did not end before its deadline.' END,
                       'attempts', CASE reason WHEN :reason_crashed THEN new_crashes
                                   ELSE coalesce(step_attempts, 0) END) END,
                   :free_calls_of_runs
              FROM judged
             WHERE runs.id = judged.id
         RETURNING runs.id, reason, event_seq, failure),
        stopped AS (
            UPDATE steps
               SET state = CASE WHEN steps.state <> :step_running THEN steps.state
                                WHEN reason IS NULL THEN :step_pending ELSE :step_failed END,
                   finished_at = CASE WHEN steps.state = :step_running AND reason IS NOT NULL
                                 THEN now() ELSE steps.finished_at END,
                   error = CASE steps.state WHEN :step_running
                           THEN 'The process that executed the step died.'
                           ELSE steps.error END
              FROM changed
             -- All that are not done: one may have been started since this statement began.
             WHERE steps.run_id = changed.id AND steps.state <> :step_succeeded),
        told AS (
            INSERT INTO events (run_id, seq, type, data)
            SELECT id, event_seq, :event_run_failed, failure FROM changed WHERE reason IS NOT NULL)
        SELECT count(*) AS taken_back FROM changed
        """  # noqa: S608 - constants of this module
    )


# A lease lapsed: its holder died, or was cut off. A suspect had its process to itself, so its death
# is put down to it. A queued run whose deadline has passed fails as well. Nobody waits for a row
# that another sweep, or its holder, is just changing.
#
# Right after PostgreSQL itself was away it looks as if every holder had died, while they only could
# not renew: they get the time of one lease. A restart is known by its time. A frozen or unreachable
# server is known by the sweeps that are missing, whoever was to make them; the record keeps the
# clock of them, so that also the sweep of a new process counts, and one that was sent before the
# absence and is executed after it.
REQUEUE_LAPSED_RUNS = _take_back(
    """
    clock AS (
        INSERT INTO sweep_clock (id) VALUES (1)
            ON CONFLICT (id) DO UPDATE
           SET swept_at = greatest(sweep_clock.swept_at, now()),
               steady_since = CASE WHEN sweep_clock.swept_at
                   < now() - make_interval(secs => CAST(:gap_s AS double precision))
                   THEN now() ELSE sweep_clock.steady_since END
     RETURNING steady_since),
    lapsed AS (
        SELECT id, crashes, lapses, deadline_at, is_isolated AS is_charged,
               NOT is_isolated AS is_shared,
               'The process that executed the run died, and it executed nothing else.' AS message
          FROM runs
         WHERE state IN :lapse_sources AND lease_until < now()
           AND greatest(pg_postmaster_start_time(), (SELECT steady_since FROM clock))
               < now() - make_interval(secs => CAST(:ttl_s AS double precision))
         ORDER BY id
         LIMIT CAST(:up_to AS bigint)
           FOR UPDATE SKIP LOCKED),
    overdue AS (
        SELECT id, crashes, lapses, deadline_at, false, false, ''
          FROM runs
         WHERE state = :run_queued AND deadline_at < now()
         ORDER BY deadline_at
         LIMIT CAST(:up_to AS bigint)
           FOR UPDATE SKIP LOCKED),
    gone AS (SELECT * FROM lapsed UNION ALL SELECT * FROM overdue)
    """
)

# A process is known to be dead, and perhaps which run it died of. That one pays for all; if it is
# not there (any more), nobody can say. Whoever writes for the dead process is waited for.
BURY_PROCESS = _take_back(
    """
    dead AS (
        SELECT id, crashes, lapses, deadline_at, is_isolated FROM runs
         WHERE state IN :lapse_sources AND lease_owner = :owner
         ORDER BY id
           FOR UPDATE),
    verdict AS (
        SELECT EXISTS (SELECT FROM dead WHERE id = CAST(:culprit AS uuid)) AS is_known),
    gone AS (
        SELECT id, crashes, lapses, deadline_at,
               CASE WHEN is_known THEN id = CAST(:culprit AS uuid) ELSE is_isolated END
                   AS is_charged,
               NOT is_known AND NOT is_isolated AS is_shared,
               CASE WHEN is_known
                    THEN 'The process that executed the run died while it was on the CPU.'
                    ELSE 'The process that executed the run died, and it executed nothing else.'
               END AS message
          FROM dead, verdict)
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

SHORTEST_GAP_S = 2.0
"""Seconds without a sweep that may be chance. A lease that is renewed in time has always two thirds left, so half
of one is the longest gap that costs nobody a run."""


class RunSweeps:
    """Takes runs back and hints them. RunStore says what each method promises."""

    def __init__(
        self, database: Database, *, lease_ttl_s: float, max_crashes: int, rehint_after_s: float
    ) -> None:
        self._database = database
        self._lease_ttl_s = lease_ttl_s
        self._max_crashes = max_crashes
        self._rehint_after_s = rehint_after_s

    async def requeue_lapsed_runs(self, *, limit: int) -> int:
        """Take back or fail runs whose lease lapsed or whose deadline passed; how many."""
        rows = await self._database.fetch(
            REQUEUE_LAPSED_RUNS,
            {
                "max_crashes": self._max_crashes,
                "ttl_s": self._lease_ttl_s,
                "gap_s": max(self._lease_ttl_s / 2, SHORTEST_GAP_S),
                "up_to": limit,
            },
        )
        return int(rows[0].taken_back)

    async def bury_process(self, owner: str, *, culprit: UUID | None) -> int:
        """Take back or fail all runs of a process; how many."""
        rows = await self._database.fetch(
            BURY_PROCESS, {"owner": owner, "culprit": culprit, "max_crashes": self._max_crashes}
        )
        return int(rows[0].taken_back)

    async def take_due_hints(self, *, limit: int) -> list[DueHint]:
        """The runs to hint now."""
        rows = await self._database.fetch(
            TAKE_DUE_HINTS, {"up_to": limit, "rehint_after_s": self._rehint_after_s}
        )
        return [DueHint(run_id=row.id, is_isolated=row.is_isolated) for row in rows]
