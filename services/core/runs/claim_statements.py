"""Which runs a worker gets: fair between keys, by priority and time within one. ADR 19.

Nothing is kept between claims. Who runs how much is in the record, and who waits is found in the
index runs_due_by_key by jumping from key to key, so that no claim reads a backlog.
"""

from sqlalchemy import TextClause

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


def _running_of(key: str) -> str:
    """How many runs of a key run; by the index runs_running_by_key."""
    return f"""(SELECT count(*) FROM runs AS other
                     WHERE other.state = :run_running AND other.key_id = {key})"""  # noqa: S608 - a constant


def _due_of(key: str, priority: str, *, limit: str) -> str:
    """The due runs of a lane: a key and one of its priorities. A range of runs_due_by_key."""
    return f"""SELECT id, next_at FROM runs
                   WHERE {QUEUED} AND key_id = {key} AND priority = {priority}
                     AND {FITTING}
                   ORDER BY next_at LIMIT {limit}"""  # noqa: S608 - constants of this module


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


# A plan is made once per connection, and kept: one made while the table was small would read all of
# it for each key when it is large. Indexes are the only way here, whatever the statistics say.
BEGIN_CLAIM = statement(
    """
    SELECT set_config('enable_seqscan', 'off', true),
           set_config('enable_bitmapscan', 'off', true),
           set_config('enable_hashjoin', 'off', true),
           set_config('enable_mergejoin', 'off', true),
           set_config('plan_cache_mode', 'force_generic_plan', true),
           EXISTS (SELECT FROM api_keys WHERE max_running IS NOT NULL) AS has_limits
    """
)

# Every limited key, and how many of its runs may run: none if another claimer is just counting
# them. Who counts holds the key, so the next statement sees what every earlier claimer has
# committed. NO KEY UPDATE, for new runs hold their key's row as well (foreign key): they neither
# wait nor are waited for. Those with the fewest first, and by chance, so that none is always last.
LOCK_LIMITED_KEYS = statement(
    f"""
    WITH limited AS MATERIALIZED (
        SELECT api_keys.id, {_running_of("api_keys.id")} AS running,
               EXISTS (SELECT FROM runs WHERE {QUEUED} AND key_id = api_keys.id) AS is_waiting
          FROM api_keys
         WHERE max_running IS NOT NULL),
    locked AS (
        SELECT api_keys.id, max_running
          FROM limited JOIN api_keys ON api_keys.id = limited.id
         WHERE is_waiting AND running < max_running
         ORDER BY running, random()
         LIMIT CAST(:up_to AS bigint)
           FOR NO KEY UPDATE OF api_keys SKIP LOCKED)
    SELECT api_keys.id, coalesce(locked.max_running, 0) AS max_running,
           is_waiting AND running < api_keys.max_running AND locked.id IS NULL AS is_left_out
      FROM limited
      JOIN api_keys ON api_keys.id = limited.id
      LEFT JOIN locked ON locked.id = limited.id
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


def _claim(candidates: str, *, condition: str) -> TextClause:
    """A statement that claims up to `up_to` of the candidates, and counts them.

    Nobody waits for a row that another worker is just taking. The fence grows, so that whoever held
    the run before writes nothing any more. Times are the database's: no worker's clock decides.

    Args:
        candidates: CTEs, the last of them `candidate`: id and place of runs, the first to be taken
            first, and due_at for those of the same place.
        condition: What must still hold, besides being due, once a run is locked.
    """
    return statement(
        f"""
        WITH RECURSIVE {candidates},
        due AS (
            SELECT runs.id, place, started_at IS NULL AS is_first
              FROM candidate JOIN runs ON runs.id = candidate.id
             -- As an expression no partial index can serve it: the rows are found by their ids.
             WHERE state || '' IN :claim_sources AND {condition} AND {FITTING}
             ORDER BY place, due_at
             LIMIT CAST(:up_to AS bigint)
               FOR UPDATE OF runs SKIP LOCKED),
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
         RETURNING runs.*, place, is_first),
        told AS (
            INSERT INTO events (run_id, seq, type, data)
            SELECT id, event_seq, :event_run_started, '{{}}' FROM claimed WHERE is_first)
        SELECT seen.candidates, id, key_id, mode, attempts, fence, pipeline, input, traceparent, created_at, budget_usd,
               shape, is_isolated AND lapses > 0 AND crashes = 0 AS is_on_probation,
               extract(epoch FROM deadline_at - now())::double precision AS remaining_s
          FROM (SELECT count(*) AS candidates FROM candidate) AS seen
          LEFT JOIN claimed ON true
         ORDER BY place, next_at
        """  # noqa: S608 - constants of this module
    )


# In words: every key with queued runs; from its highest priority down to the first lane (key and
# priority) in which a run is due: its first. Its n-th due run has the place (running + n), and the
# lowest places are taken. How many runs of a key can be among them is bounded from above (`most`),
# knowing only that each key has one: no place is behind the first place of the key that is the last
# to be needed, if there are so many keys; and before a key's n-th run, from the second on, come
# n - 1 of its own and the first of each key that runs no more than it does. Only for keys that may
# have more than one among them, the lanes are read on.
#
# More are chosen than wanted: others may be taking the same ones at this moment.
CLAIM_DUE_RUNS = _claim(
    f"""
        queued_key AS (
            (SELECT key_id, priority FROM runs
              WHERE {QUEUED}
              ORDER BY key_id, priority DESC LIMIT 1)
            UNION ALL
            SELECT following.key_id, following.priority
              FROM queued_key CROSS JOIN LATERAL (
                  SELECT key_id, priority FROM runs
                   WHERE {QUEUED} AND key_id > queued_key.key_id
                   ORDER BY key_id, priority DESC LIMIT 1) AS following),
        lane AS (
            SELECT key_id, priority, found.id, found.next_at
              FROM queued_key LEFT JOIN LATERAL (
                  {_due_of("queued_key.key_id", "queued_key.priority", limit="1")}
                  ) AS found ON true
            UNION ALL
            SELECT lane.key_id, lower.priority, found.id, found.next_at
              FROM lane CROSS JOIN LATERAL (
                  {_below("lane")}) AS lower
              LEFT JOIN LATERAL (
                  {_due_of("lane.key_id", "lower.priority", limit="1")}) AS found ON true
             WHERE lane.id IS NULL),
        contender AS MATERIALIZED (
            SELECT lane.*, running,
                   CAST(CAST(:max_running AS jsonb) ->> CAST(key_id AS text) AS bigint) AS allowed
              FROM lane CROSS JOIN LATERAL
                   {_running_of("lane.key_id")} AS at_work (running)
             WHERE lane.id IS NOT NULL),
        bounded AS MATERIALIZED (
            SELECT contender.*, least(
                       allowed - running,
                       nth_value(running, CAST(:choose AS integer)) OVER everyone + 1 - running,
                       greatest(1, :choose + 1 - count(*) OVER by_running)) AS most
              FROM contender
             WHERE allowed IS NULL OR allowed > running
            WINDOW by_running AS (ORDER BY running),
                   everyone AS (by_running
                       ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING)),
        lanes AS (
            SELECT key_id, priority, running, most, CAST(0 AS bigint) AS before, ids, times
              FROM bounded CROSS JOIN LATERAL (
                  {_gathered(_due_of("bounded.key_id", "bounded.priority", limit="bounded.most"))}
                  ) AS found
             WHERE most > 1
            UNION ALL
            SELECT lanes.key_id, lower.priority, running, most, reached.total, found.ids,
                   found.times
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
            SELECT id, running + 1 AS place, next_at AS due_at FROM bounded WHERE most = 1
            UNION ALL
            SELECT one.id, running + before + one.number, one.due_at
              FROM lanes CROSS JOIN LATERAL
                   unnest(ids, times) WITH ORDINALITY AS one (id, due_at, number)
             ORDER BY place, due_at
             LIMIT CAST(:choose AS bigint))""",  # noqa: S608 - constants of this module
    condition="NOT is_isolated",
)

# A suspect is asked for by name. It waits like any other while its key runs as many as it may.
CLAIM_ISOLATED_RUN = _claim(
    f"""
        candidate AS (
            SELECT id, 0 AS place, next_at AS due_at FROM runs
             WHERE id = :run_id AND NOT EXISTS (
                 SELECT FROM api_keys
                  WHERE api_keys.id = runs.key_id
                    AND max_running <= {_running_of("runs.key_id")}))""",  # noqa: S608 - likewise
    condition="is_isolated",
)
