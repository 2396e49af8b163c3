"""Which runs a worker gets: fair between keys, by priority and time within one. ADR 19.

Who runs how much is in the record, and who waits is found in the index runs_due_by_key by jumping
from key to key, so that no claim reads a backlog, nor asks more keys than it has to. A claimer
remembers only where it stopped, to go on there.
"""

from uuid import UUID

from services.core.db import Statement
from services.core.runs.sql import statement

BATCH_GRACE = "24 hours"
"""What a run in batch mode has beyond the usual time: so long may Claude take for a message batch."""

QUEUED = "state IN :claim_sources AND NOT is_isolated"
"""The condition of the index runs_due_by_key, word for word."""

FITTING = """next_at <= now()
               AND (shape IS NULL OR shape = ANY (CAST(:shapes AS text[])))
               AND (deadline_at IS NULL OR deadline_at > now())"""
"""What is due. A run of unknown shape may be anybody's; whoever takes it finds out. What is past its
deadline is left to the sweep."""


AT_WORK = """at_work AS MATERIALIZED (
            SELECT coalesce(jsonb_object_agg(key_id, running), '{}') AS by_key
              FROM (SELECT key_id, count(*) AS running FROM runs
                     WHERE state = :run_running GROUP BY key_id) AS counted)"""
"""How many runs of each key run, in one object; along the index runs_running."""


NO_KEY = UUID(int=0)
"""Before the id of every key."""
LAST_KEY = UUID(int=2**128 - 1)
"""No id of a key is after it."""


def _number_of(key: str, *, by_key: str) -> str:
    """What an object says of a key, or nothing."""
    return f"CAST({by_key} ->> CAST({key} AS text) AS bigint)"


def _has_room(key: str) -> str:
    """Whether a key may run one more: it has no limit, or this claim has counted."""
    allowed = _number_of(key, by_key="CAST(:max_running AS jsonb)")
    running = _number_of(key, by_key="at_work.by_key")
    return f"coalesce(({allowed}) > coalesce({running}, 0), true)"


def _due_of(key: str, priority: str, *, limit: str, condition: str = "true") -> str:
    """The due runs of a lane: a key and one of its priorities. A range of runs_due_by_key."""
    return f"""SELECT id, next_at FROM runs
                   WHERE {condition} AND {QUEUED} AND key_id = {key} AND priority = {priority}
                     AND {FITTING}
                   ORDER BY next_at LIMIT {limit}"""  # noqa: S608 - constants of this module


def _first(condition: str) -> str:
    """The run that is the first in runs_due_by_key of those that meet a condition; whether it is due.

    It is of the first of their keys, of its highest priority, and there the earliest.
    """
    return f"""SELECT key_id, priority, id, next_at, {FITTING} AS is_due FROM runs
                   WHERE {QUEUED} AND {condition}
                   ORDER BY key_id, priority DESC, next_at LIMIT 1"""  # noqa: S608 - constants of this module


def _below(lane: str) -> str:
    """The next lower priority of a lane's key, if it has one. One look into runs_due_by_key."""
    return f"""SELECT priority FROM runs
                   WHERE {QUEUED} AND key_id = {lane}.key_id AND priority < {lane}.priority
                   ORDER BY priority DESC LIMIT 1"""  # noqa: S608 - constants of this module


def _gathered(due: str) -> str:
    """Runs as two arrays."""
    return f"""SELECT array_agg(id ORDER BY next_at) AS ids,
                         array_agg(next_at ORDER BY next_at) AS times
                    FROM ({due}) AS next_ones"""  # noqa: S608 - constants of this module


LANE = f"""lane AS (
            SELECT key_id, priority, is_spare,
                   CASE WHEN is_due THEN queued_key.id ELSE found.id END AS id,
                   CASE WHEN is_due THEN queued_key.next_at ELSE found.next_at END AS next_at
              FROM queued_key LEFT JOIN LATERAL (
                  {
    _due_of("queued_key.key_id", "queued_key.priority", limit="1", condition="NOT is_due")
}) AS found ON true
            UNION ALL
            SELECT lane.key_id, lower.priority, lane.is_spare, found.id, found.next_at
              FROM lane CROSS JOIN LATERAL (
                  {_below("lane")}) AS lower
              LEFT JOIN LATERAL (
                  {_due_of("lane.key_id", "lower.priority", limit="1")}) AS found ON true
             WHERE lane.id IS NULL)"""  # noqa: S608 - constants of this module
"""From each queued_key's highest priority down to the first lane (key and priority) in which a run is
due, and that run; without one, if it is the key's last. Mostly that is the run that is the key's
first in the index anyway, and then the lane is not looked at."""

# A plan takes longer to make than to execute, so one is made per connection, and kept. Made while
# the table was small it would read all of it for each key, or join it to everything, when it is
# large. So whatever the statistics say: by the index that has the order, and from there by ids.
CLAIM_OPTIONS = {
    "enable_seqscan": "off",
    "enable_bitmapscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "enable_hashagg": "off",
    "enable_sort": "off",
    "enable_material": "off",
    "plan_cache_mode": "force_generic_plan",
}
"""PostgreSQL's settings for connections that claim."""

HAS_LIMITS = "EXISTS (SELECT FROM api_keys WHERE max_running IS NOT NULL)"

# Every limited key, and how many of its runs may run: none if another claimer is just counting
# them. Who counts holds the key, so the next statement sees what every earlier claimer has
# committed. NO KEY UPDATE, for new runs hold their key's row as well (foreign key): they neither
# wait nor are waited for. In the order of the claim, and no more keys than runs are wanted.
LOCK_LIMITED_KEYS = statement(
    f"""
    WITH RECURSIVE {AT_WORK},
        limited AS MATERIALIZED (
            SELECT id, max_running,
                   coalesce({_number_of("id", by_key="at_work.by_key")}, 0) AS running
              FROM api_keys, at_work
             WHERE max_running IS NOT NULL),
        queued_key AS (
            SELECT highest.*, false AS is_spare
              FROM limited CROSS JOIN LATERAL (
                  {_first("key_id = limited.id")}) AS highest
             WHERE running < max_running),
        {LANE},
        counted AS MATERIALIZED (
            SELECT api_keys.id
              FROM at_work, lane JOIN api_keys ON api_keys.id = lane.key_id
             WHERE lane.id IS NOT NULL
             ORDER BY {_number_of("lane.key_id", by_key="at_work.by_key")} NULLS FIRST, lane.next_at
             LIMIT CAST(:up_to AS bigint)
               FOR NO KEY UPDATE OF api_keys SKIP LOCKED)
    SELECT id, CASE WHEN is_counted THEN max_running ELSE 0 END AS max_running,
           NOT is_counted AND id IN (SELECT key_id FROM lane WHERE lane.id IS NOT NULL)
               AS is_left_out
      FROM (SELECT limited.*, id IN (SELECT id FROM counted) AS is_counted FROM limited) AS known
    """  # noqa: S608 - constants of this module
)

# Waits, for a hint of a suspect comes seldom; whoever holds the key is done within milliseconds.
LOCK_KEY_OF_RUN = statement(
    """
    SELECT FROM api_keys
     WHERE id = (SELECT key_id FROM runs WHERE id = :run_id) AND max_running IS NOT NULL
       FOR NO KEY UPDATE
    """
)


def _claim(candidates: str, *, condition: str, last_key: str = "NULL") -> Statement:
    """A statement that claims up to `up_to` of the candidates, and counts them.

    Nobody waits for a row that another worker is just taking. The fence grows, so that whoever held
    the run before writes nothing any more. Times are the database's: no worker's clock decides.

    The first step without a checkpoint is started with it, unless its claimer may not know the run's
    steps (a run without a shape), or the run came on since the statement began: its holder starts it.

    Args:
        candidates: CTEs, the last of them `candidate`: id and place of runs, the first to be taken
            first, and is_spare and due_at for those of the same place.
        condition: What must still hold, besides being due, once a run is locked.
        last_key: The key after which the next claim begins, as an expression.
    """
    return statement(
        f"""
        WITH RECURSIVE {candidates},
        due AS (
            SELECT runs.id, place, started_at IS NULL AS is_first, shape IS NOT NULL AS is_known
              FROM candidate JOIN runs ON runs.id = candidate.id
             -- As an expression no partial index can serve it: the rows are found by their ids.
             WHERE state || '' IN :claim_sources AND {condition} AND {FITTING}
             ORDER BY place, is_spare, due_at
             LIMIT CAST(:up_to AS bigint)
               FOR UPDATE OF runs SKIP LOCKED),
        started AS (
            UPDATE steps SET state = :step_running, attempts = attempts + 1, started_at = now()
              FROM due CROSS JOIN LATERAL (
                  SELECT name FROM steps AS open
                   WHERE open.run_id = due.id AND open.state <> :step_succeeded
                   ORDER BY position LIMIT 1) AS next_one
             WHERE is_known AND steps.run_id = due.id AND steps.name = next_one.name
               -- Once more, for the row as it is now: a checkpoint may be younger than what was read.
               AND steps.state <> :step_succeeded
         RETURNING due.id, place, is_first, steps.name AS step, steps.attempts AS step_attempt),
        taken AS (
            SELECT * FROM started
            UNION ALL
            SELECT id, place, is_first, NULL, NULL FROM due
             WHERE id NOT IN (SELECT id FROM started)),
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
                   event_seq = event_seq + is_first::integer + (step IS NOT NULL)::integer
              FROM taken
             WHERE runs.id = taken.id
         RETURNING runs.*, place, is_first, step, step_attempt),
        told AS (
            INSERT INTO events (run_id, seq, type, data)
            SELECT id, event_seq - (step IS NOT NULL)::integer, :event_run_started, '{{}}'
              FROM claimed WHERE is_first
            UNION ALL
            SELECT id, event_seq, :event_step_started,
                   jsonb_build_object('step', step, 'attempt', step_attempt)
              FROM claimed WHERE step IS NOT NULL)
        SELECT seen.candidates, seen.has_limits, seen.last_key,
               id, key_id, mode, attempts, fence, pipeline, input, traceparent, created_at,
               budget_usd, shape, step, step_attempt,
               is_isolated AND lapses > 0 AND crashes = 0 AS is_on_probation,
               extract(epoch FROM deadline_at - now())::double precision AS remaining_s
          FROM (SELECT count(*) AS candidates, {HAS_LIMITS} AS has_limits, {last_key} AS last_key
                  FROM candidate) AS seen
          LEFT JOIN claimed ON true
         ORDER BY place, next_at
        """  # noqa: S608 - constants of this module
    )


# In words: the keys with queued runs, in a circle, from where the last claim stopped until as many
# are met as are looked at that have a run which is due and that they may run. These are no fewer
# than are wanted, so a claim that stops early is full, and one that is not full has seen all keys.
#
# A key's n-th due run has the place (running + n), and the lowest places are taken. How many runs of
# a key can be among them is bounded from above (`most`), knowing only that each key has one: no place
# is behind the first place of the key that is the last to be needed, if there are so many keys; and
# before a key's n-th run, from the second on, come n - 1 of its own and the first of each key that
# runs no more than it does. Only for keys that may have more than one among them, the lanes are read
# on.
#
# More are chosen than wanted, for others may be taking the same ones at this moment: the first runs of
# some more keys, or if there are no more, further runs of these. At the same place such a key comes
# last, for the next claim begins with it.
CLAIM_DUE_RUNS = _claim(
    f"""
        {AT_WORK},
        circle AS (
            SELECT CAST(:after AS uuid) AS key_id, CAST(NULL AS integer) AS priority,
                   CAST(NULL AS uuid) AS id, CAST(NULL AS timestamptz) AS next_at, false AS is_due,
                   CAST('{LAST_KEY}' AS uuid) AS until, 0 AS number, 0 AS met
            UNION ALL
            SELECT following.*, number + 1,
                   met + (following.is_due AND {_has_room("following.key_id")})::integer
              FROM at_work, circle CROSS JOIN LATERAL (
                  (SELECT *, circle.until FROM (
                      {_first("key_id > circle.key_id")}) AS first)
                  UNION ALL
                  SELECT '{NO_KEY}', NULL, NULL, NULL, false, :after WHERE circle.until > :after
                   LIMIT 1) AS following
             WHERE met < CAST(:look_at AS integer) + :choose - :up_to
               AND following.key_id <= circle.until),
        queued_key AS (SELECT *, met > :look_at AS is_spare FROM circle WHERE id IS NOT NULL),
        {LANE},
        contender AS MATERIALIZED (
            SELECT lane.*,
                   coalesce({_number_of("key_id", by_key="at_work.by_key")}, 0) AS running,
                   {_number_of("key_id", by_key="CAST(:max_running AS jsonb)")} AS allowed
              FROM lane, at_work
             -- Whoever has not locked the limited keys, because there were none, takes nothing if there are.
             WHERE lane.id IS NOT NULL AND (CAST(:is_counted AS boolean) OR NOT {HAS_LIMITS})),
        bounded AS MATERIALIZED (
            SELECT contender.*, least(allowed - running, greatest(1, least(
                       CASE WHEN nth_value(running, CAST(:choose AS integer)) OVER everyone IS NOT NULL
                            THEN nth_value(running, CAST(:up_to AS integer)) OVER everyone
                                 + 1 - running END,
                       :choose + 1 - count(*) OVER by_running))) AS most
              FROM contender
             WHERE allowed IS NULL OR allowed > running
            WINDOW by_running AS (ORDER BY running),
                   everyone AS (by_running
                       ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING)),
        lanes AS (
            SELECT key_id, priority, is_spare, running, most, CAST(0 AS bigint) AS before, ids,
                   times
              FROM bounded CROSS JOIN LATERAL (
                  {_gathered(_due_of("bounded.key_id", "bounded.priority", limit="bounded.most"))}
                  ) AS found
             WHERE most > 1
            UNION ALL
            SELECT lanes.key_id, lower.priority, is_spare, running, most, reached.total,
                   found.ids, found.times
              FROM lanes CROSS JOIN LATERAL (
                  SELECT before + coalesce(cardinality(lanes.ids), 0)) AS reached (total)
             CROSS JOIN LATERAL (
                  {_below("lanes")}) AS lower
             CROSS JOIN LATERAL (
                  {
        _gathered(_due_of("lanes.key_id", "lower.priority", limit="(lanes.most - reached.total)"))
    }) AS found
             WHERE reached.total < most),
        candidate AS MATERIALIZED (
            SELECT id, running + 1 AS place, is_spare, next_at AS due_at
              FROM bounded WHERE most = 1
            UNION ALL
            SELECT one.id, running + before + one.number, is_spare, one.due_at
              FROM lanes CROSS JOIN LATERAL
                   unnest(ids, times) WITH ORDINALITY AS one (id, due_at, number)
             ORDER BY place, is_spare, due_at
             LIMIT CAST(:choose AS bigint))""",  # noqa: S608 - constants of this module
    condition="NOT is_isolated",
    last_key="(SELECT key_id FROM circle WHERE met <= :look_at ORDER BY number DESC LIMIT 1)",
)

# A suspect is asked for by name. It waits like any other while its key runs as many as it may.
CLAIM_ISOLATED_RUN = _claim(
    """
        candidate AS (
            SELECT id, 0 AS place, false AS is_spare, next_at AS due_at FROM runs
             WHERE id = :run_id AND NOT EXISTS (
                 SELECT FROM api_keys
                  WHERE api_keys.id = runs.key_id
                    AND max_running <= (
                        SELECT count(*) FROM runs AS other
                         WHERE other.state = :run_running AND other.key_id = runs.key_id)))""",
    condition="is_isolated",
)
