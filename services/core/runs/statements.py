"""The SQL that the holder of a lease runs while it executes a run.

Each statement takes `:items`, a JSON list of what callers want, and is one transaction. It first
locks the runs that their leases still hold, in the order of their ids, so that two batches never
wait for each other in a circle. Then it writes rows and events together. What a fenced-out caller
sent finds no row, and no row comes back for it.
"""

from services.core.db import Statement
from services.core.runs.call_statements import forgetting
from services.core.runs.sql import statement
from services.core.runs.states import Transition


def _fenced(transition: Transition, columns: str, body: str) -> Statement:
    """A statement on runs that are still held; `columns` is what an item has besides run and fence.

    A lease that has lapsed still holds until somebody notices: its holder is the only one. What
    follows takes all it needs from `held`, and what an UPDATE returns: PostgreSQL expects few rows of
    a CTE, and compares each of one with each of another where the two are joined.
    """
    return statement(
        f"""
        WITH item AS MATERIALIZED (
            SELECT * FROM json_to_recordset(CAST(:items AS json))
                       AS item (run_id uuid, fence bigint, {columns})),
        held AS (
            SELECT item.*
              FROM runs JOIN item ON runs.id = item.run_id AND runs.fence = item.fence
             WHERE runs.state IN :{transition}_sources
             ORDER BY runs.id
               FOR UPDATE OF runs),
        {body}
        """  # noqa: S608 - constants of this module
    )


# Calls whose answers are not wanted again: those that failed, and those that the try failed of. No
# try has failed of an answer that is yet to come from a message batch.
UNWANTED = """claude_calls.step = held.step
           AND claude_calls.state NOT IN (:call_waiting, :call_submitted)
           AND (claude_calls.state = :call_failed OR held.forgets_all
                OR encode(claude_calls.question, 'hex') = ANY (held.forgotten))"""
FORGET_UNWANTED_CALLS = forgetting(
    f"""
         USING held
         WHERE claude_calls.run_id = held.run_id AND {UNWANTED}
    """
)

# One more try of a step. A step that succeeded is never started again.
START_STEPS = _fenced(
    Transition.CHECKPOINT,
    "step text",
    """
    started AS (
        UPDATE steps SET state = :step_running, attempts = attempts + 1, started_at = now()
          FROM held
         WHERE steps.run_id = held.run_id AND steps.name = held.step
           AND steps.state <> :step_succeeded
     RETURNING steps.run_id, steps.name, steps.attempts),
    changed AS (
        UPDATE runs SET event_seq = event_seq + 1 FROM started WHERE runs.id = started.run_id
     RETURNING runs.id AS run_id, runs.event_seq, started.name, started.attempts),
    told AS (
        INSERT INTO events (run_id, seq, type, data)
        SELECT run_id, event_seq, :event_step_started,
               jsonb_build_object('step', name, 'attempt', attempts)
          FROM changed)
    SELECT run_id, attempts FROM held FULL JOIN started USING (run_id)
    """,
)

CALLS_OF_DONE = forgetting(
    """
         USING done
         WHERE claude_calls.run_id = done.run_id AND claude_calls.step = done.name
    """
)

# A step is done, and the next one begins. The first writer wins: told a second time, nothing changes,
# and the try that has begun then is told again: only this holder can have begun it. The run has come
# on, so what its process died of before was not this run. The calls of the step have served.
RECORD_CHECKPOINTS = _fenced(
    Transition.CHECKPOINT,
    "step text, output jsonb, next_step text",
    f"""
    done AS (
        UPDATE steps
           SET state = :step_succeeded, finished_at = now(), error = NULL, output = held.output
          FROM held
         WHERE steps.run_id = held.run_id AND steps.name = held.step
           AND steps.state <> :step_succeeded
     RETURNING steps.run_id, steps.name),
    {CALLS_OF_DONE},
    started AS (
        UPDATE steps SET state = :step_running, attempts = attempts + 1, started_at = now()
          FROM held
         WHERE steps.run_id = held.run_id AND steps.name = held.next_step
           AND steps.state NOT IN (:step_running, :step_succeeded)
     RETURNING steps.run_id, steps.name, steps.attempts),
    news AS (
        SELECT run_id, done.name AS done, started.name AS started, attempts,
               (done.name IS NOT NULL)::integer + (started.name IS NOT NULL)::integer AS number
          FROM done FULL JOIN started USING (run_id)),
    changed AS (
        UPDATE runs SET lapses = 0, event_seq = event_seq + news.number, :free_calls_of_runs
          FROM news
         WHERE runs.id = news.run_id
     RETURNING runs.id AS run_id, runs.event_seq, news.done, news.started, news.attempts),
    told AS (
        INSERT INTO events (run_id, seq, type, data)
        SELECT run_id, event_seq - (started IS NOT NULL)::integer, :event_step_succeeded,
               jsonb_build_object('step', done)
          FROM changed WHERE done IS NOT NULL
        UNION ALL
        SELECT run_id, event_seq, :event_step_started,
               jsonb_build_object('step', started, 'attempt', attempts)
          FROM changed WHERE started IS NOT NULL)
    SELECT held.run_id, steps.name IS NOT NULL AS is_known,
           coalesce(started.attempts, following.attempts) AS next_attempt
      FROM held
      FULL JOIN started ON started.run_id = held.run_id
      LEFT JOIN steps ON steps.run_id = held.run_id AND steps.name = held.step
      LEFT JOIN steps AS following
             ON following.run_id = held.run_id AND following.name = held.next_step
    """,  # noqa: S608 - constants of this module
)

# The run is done, and with it its last step, unless that has its checkpoint already; the email is
# stored with them.
FINISH_RUNS = _fenced(
    Transition.FINISH,
    """step text, output jsonb,
       email_id uuid, template_type text, subject text, body text, email_metadata jsonb""",
    f"""
    done AS (
        UPDATE steps
           SET state = :step_succeeded, finished_at = now(), error = NULL, output = held.output
          FROM held
         WHERE steps.run_id = held.run_id AND steps.name = held.step
           AND steps.state <> :step_succeeded
     RETURNING steps.run_id, steps.name),
    {CALLS_OF_DONE},
    changed AS (
        UPDATE runs
           SET state = :finish_target, output = held.output, finished_at = now(),
               lease_owner = NULL, lease_until = NULL,
               event_seq = event_seq + 1 + (runs.id IN (SELECT run_id FROM done))::integer,
               :free_calls_of_runs
          FROM held
         WHERE runs.id = held.run_id
     RETURNING held.*, runs.key_id, runs.event_seq,
               CASE WHEN runs.id IN (SELECT run_id FROM done) THEN held.step END AS done),
    stored AS (
        INSERT INTO emails (id, run_id, key_id, template_type, subject, body, metadata)
        SELECT email_id, run_id, key_id, template_type, subject, body, email_metadata
          FROM changed
         WHERE email_id IS NOT NULL),
    told AS (
        INSERT INTO events (run_id, seq, type, data)
        SELECT run_id, event_seq - 1, :event_step_succeeded, jsonb_build_object('step', done)
          FROM changed WHERE done IS NOT NULL
        UNION ALL
        SELECT run_id, event_seq, :event_run_succeeded, '{{}}' FROM changed)
    SELECT run_id FROM changed
    """,  # noqa: S608 - constants of this module
)

# A try failed, and there will be another.
RETRY_RUNS = _fenced(
    Transition.RETRY,
    """step text, error text, delay_s double precision, is_counted boolean,
       forgets_all boolean, forgotten text[]""",
    f"""
    {FORGET_UNWANTED_CALLS},
    changed AS (
        UPDATE runs
           SET state = :retry_target, lease_owner = NULL, lease_until = NULL,
               next_at = now() + make_interval(secs => held.delay_s),
               hint_at = now() + make_interval(secs => held.delay_s),
               event_seq = event_seq + 1, :free_calls_of_runs
          FROM held
         WHERE runs.id = held.run_id
     RETURNING held.*, runs.event_seq, runs.next_at),
    failed AS (
        UPDATE steps
           SET state = :step_pending, error = changed.error,
               failures = failures + CASE WHEN changed.is_counted THEN 1 ELSE 0 END
          FROM changed
         WHERE steps.run_id = changed.run_id AND steps.name = changed.step
           AND steps.state <> :step_succeeded
     RETURNING steps.run_id, steps.attempts),
    told AS (
        INSERT INTO events (run_id, seq, type, data)
        SELECT run_id, event_seq, :event_step_retrying,
               jsonb_build_object('step', step, 'attempt', attempts, 'error', error,
                                  'next_at', next_at)
          FROM changed FULL JOIN failed USING (run_id))
    SELECT run_id FROM changed
    """,  # noqa: S608 - constants of this module
)

# A step cannot ask Claude now: neither a try nor a failure. A run that waits for message batches is
# due at once if the last result has come meanwhile; the calls are locked to see that.
PARK_RUNS = _fenced(
    Transition.PARK,
    "step text, wait_s double precision, reason text, is_batch boolean",
    """
    awaited AS MATERIALIZED (
        SELECT claude_calls.run_id
          FROM held JOIN claude_calls USING (run_id)
         WHERE claude_calls.state IN (:call_waiting, :call_submitted)
           FOR UPDATE OF claude_calls),
    parked AS MATERIALIZED (
        SELECT held.*, now() + make_interval(secs =>
                   CASE WHEN is_batch AND run_id NOT IN (SELECT run_id FROM awaited)
                        THEN 0 ELSE wait_s END) AS due_at
          FROM held),
    changed AS (
        UPDATE runs
           SET state = :park_target, lease_owner = NULL, lease_until = NULL,
               next_at = parked.due_at, hint_at = parked.due_at, event_seq = event_seq + 1
          FROM parked
         WHERE runs.id = parked.run_id
     RETURNING parked.*, runs.event_seq, runs.next_at),
    stopped AS (
        UPDATE steps
           SET state = :step_pending,
               attempts = attempts - CASE WHEN steps.name = changed.step THEN 1 ELSE 0 END
          FROM changed
         -- All that are not done: one may have been started since this statement began.
         WHERE steps.run_id = changed.run_id AND steps.state <> :step_succeeded),
    told AS (
        INSERT INTO events (run_id, seq, type, data)
        SELECT run_id, event_seq, :event_step_waiting,
               jsonb_build_object('step', step, 'reason', reason, 'next_at', next_at)
          FROM changed)
    SELECT run_id FROM changed
    """,
)

# A worker that stops, or that does not know the run's shape, gives it back: neither a crash nor a
# failed try. So does one that has seen a suspect come on alone, which clears it.
RELEASE_RUNS = _fenced(
    Transition.RELEASE,
    "delay_s double precision, is_cleared boolean",
    """
    changed AS (
        UPDATE runs
           SET state = :release_target, lease_owner = NULL, lease_until = NULL,
               is_isolated = is_isolated AND NOT held.is_cleared,
               next_at = now() + make_interval(secs => held.delay_s),
               hint_at = now() + make_interval(secs => held.delay_s)
          FROM held
         WHERE runs.id = held.run_id
     RETURNING runs.id AS run_id),
    stopped AS (
        -- All that are not done: one may have been started since this statement began.
        UPDATE steps SET state = :step_pending FROM changed
         WHERE steps.run_id = changed.run_id AND steps.state <> :step_succeeded)
    SELECT run_id FROM changed
    """,
)

FORGET_CALLS_OF_FAILED = forgetting(
    f"""
         USING held
         WHERE claude_calls.run_id = held.run_id
           AND (claude_calls.state = :call_open OR {UNWANTED})
    """
)

# The run fails, and with it the step that it was in. Nobody waits for its calls that are under way.
FAIL_RUNS = _fenced(
    Transition.FAIL,
    "step text, failure jsonb, forgets_all boolean, forgotten text[]",
    f"""
    {FORGET_CALLS_OF_FAILED},
    changed AS (
        UPDATE runs
           SET state = :fail_target, failure = held.failure, finished_at = now(),
               lease_owner = NULL, lease_until = NULL, event_seq = event_seq + 1,
               :free_calls_of_runs
          FROM held
         WHERE runs.id = held.run_id
     RETURNING held.*, runs.event_seq),
    failed AS (
        UPDATE steps
           SET state = :step_failed, finished_at = now(), failures = failures + 1,
               error = changed.failure ->> 'message'
          FROM changed
         WHERE steps.run_id = changed.run_id AND steps.state <> :step_succeeded
           AND (steps.name = changed.step OR changed.step IS NULL AND steps.state = :step_running)),
    told AS (
        INSERT INTO events (run_id, seq, type, data)
        SELECT run_id, event_seq, :event_run_failed, failure FROM changed)
    SELECT run_id FROM changed
    """,  # noqa: S608 - constants of this module
)
