"""The SQL of calls to Claude: what they may cost is reserved before, what they cost is kept after.

Whoever changes calls holds the lock of their run, and takes the locks of days after those of all
runs, each in order, so that no two transactions wait for each other in a circle.
"""

from services.core.runs.sql import statement

KEY_OF_CALL = """
    claude_calls.run_id = item.run_id AND claude_calls.step = item.step
    AND claude_calls.question = decode(item.question, 'hex') AND claude_calls.number = item.number
"""
OPENINGS = """
    item AS MATERIALIZED (
        SELECT * FROM ROWS FROM (json_to_recordset(CAST(:items AS json)) AS (
            run_id uuid, fence bigint, step text, question text, number smallint, model text,
            worst_usd numeric, request jsonb, is_batch boolean, reservation uuid))
          WITH ORDINALITY AS item)
"""

# --- forgetting -------------------------------------------------------------------------------


def forgetting(gone: str) -> str:
    """CTEs that delete calls of locked runs, and free what is reserved for them.

    It becomes doubtful, unless the call was never sent because it waited for a message batch.

    Use `:free_calls_of_runs` in the one UPDATE of `runs` that the statement has.

    Args:
        gone: What follows DELETE FROM claude_calls.
    """
    return f"""
    forgotten AS (
        DELETE FROM claude_calls {gone} RETURNING claude_calls.*),
    freed AS MATERIALIZED (
        SELECT *, CASE state WHEN :call_waiting THEN 0 ELSE worst_usd END AS doubt_usd
          FROM forgotten WHERE state IN :call_unsettled),
    doubted AS (
        INSERT INTO doubtful_calls (run_id, reservation, step, key_id, day, worst_usd)
        SELECT run_id, reservation, step, key_id, day, worst_usd FROM freed
         WHERE state <> :call_waiting),
    freed_days AS (
        UPDATE key_days SET reserved_usd = key_days.reserved_usd - day.worst_usd,
                            doubtful_usd = key_days.doubtful_usd + day.doubt_usd
          FROM (SELECT key_id, day, sum(worst_usd) AS worst_usd, sum(doubt_usd) AS doubt_usd
                  FROM freed GROUP BY key_id, day) AS day
         WHERE key_days.key_id = day.key_id AND key_days.day = day.day)
    """  # noqa: S608 - constants of the callers


# --- opening: three statements, so that the later ones see all that was there before the locks ----

LOCK_RUNS = statement(
    f"""
    WITH {OPENINGS}
    SELECT runs.id AS run_id
      FROM runs JOIN (SELECT DISTINCT run_id, fence FROM item) AS item
        ON runs.id = item.run_id AND runs.fence = item.fence
     WHERE runs.state IN :checkpoint_sources
     ORDER BY runs.id
       FOR UPDATE OF runs
    """  # noqa: S608 - constants of this module
)

# What each call stands against: the sums of its run and of its key's day, which stay as they are
# until this transaction ends, and the call itself, if an earlier try has opened it.
READ_SUMS = statement(
    f"""
    WITH {OPENINGS},
    wanted AS MATERIALIZED (
        SELECT item.ordinality, item.run_id, item.step, item.number,
               decode(item.question, 'hex') AS question, item.worst_usd,
               item.reservation AS new_reservation,
               runs.key_id, runs.budget_usd AS run_budget_usd, runs.cost_usd AS run_cost_usd,
               runs.reserved_usd AS run_reserved_usd, runs.doubtful_usd AS run_doubtful_usd,
               api_keys.daily_budget_usd AS key_budget_usd,
               (now() AT TIME ZONE 'UTC')::date AS today,
               claude_calls.state, claude_calls.reservation, claude_calls.answer,
               claude_calls.day AS past_day, claude_calls.worst_usd AS past_worst_usd
          FROM item
          JOIN runs ON runs.id = item.run_id AND runs.fence = item.fence
                   AND runs.state IN :checkpoint_sources
          JOIN api_keys ON api_keys.id = runs.key_id
          LEFT JOIN claude_calls ON {KEY_OF_CALL}),
    days AS (
        INSERT INTO key_days (key_id, day)
        SELECT key_id, day
          FROM (SELECT key_id, today AS day FROM wanted
                 UNION SELECT key_id, past_day FROM wanted WHERE past_day IS NOT NULL) AS day
         ORDER BY key_id, day
            ON CONFLICT (key_id, day) DO UPDATE SET cost_usd = key_days.cost_usd
     RETURNING key_id, day, cost_usd, reserved_usd, doubtful_usd)
    SELECT wanted.*, days.cost_usd AS key_cost_usd, days.reserved_usd AS key_reserved_usd,
           days.doubtful_usd AS key_doubtful_usd
      FROM wanted JOIN days ON days.key_id = wanted.key_id AND days.day = wanted.today
     ORDER BY wanted.ordinality
    """  # noqa: S608 - constants of this module
)

# A call that was open before is in doubt: its process may have died before or after Claude's answer.
OPEN_CALLS = statement(
    f"""
    WITH {OPENINGS.replace("item AS", "offered AS", 1)},
    item AS MATERIALIZED (
        SELECT * FROM offered WHERE ordinality = ANY (CAST(:accepted AS bigint[]))),
    past AS MATERIALIZED (
        SELECT claude_calls.*
          FROM claude_calls JOIN item ON {KEY_OF_CALL}
         WHERE claude_calls.state IN :call_unsettled),
    doubted AS (
        INSERT INTO doubtful_calls (run_id, reservation, step, key_id, day, worst_usd)
        SELECT run_id, reservation, step, key_id, day, worst_usd FROM past),
    opened AS (
        INSERT INTO claude_calls (run_id, step, question, number, state, reservation, key_id, day,
                                  model, worst_usd, request, tries)
        SELECT item.run_id, item.step, decode(item.question, 'hex'), item.number,
               CASE WHEN item.is_batch THEN :call_waiting ELSE :call_open END,
               item.reservation, runs.key_id, (now() AT TIME ZONE 'UTC')::date,
               item.model, item.worst_usd, item.request, 1
          FROM item JOIN runs ON runs.id = item.run_id
            ON CONFLICT (run_id, step, question, number) DO UPDATE
           SET state = excluded.state, reservation = excluded.reservation, day = excluded.day,
               model = excluded.model, worst_usd = excluded.worst_usd, request = excluded.request,
               answer = NULL, tries = claude_calls.tries + 1, message_batch_id = NULL,
               custom_id = NULL, opened_at = now()
     RETURNING run_id, key_id, day, worst_usd),
    owed AS (
        SELECT run_id, key_id, day, worst_usd AS reserved_usd, 0 AS doubtful_usd FROM opened
         UNION ALL
        SELECT run_id, key_id, day, -worst_usd, worst_usd FROM past),
    of_runs AS (
        UPDATE runs SET reserved_usd = runs.reserved_usd + owed.reserved_usd,
                        doubtful_usd = runs.doubtful_usd + owed.doubtful_usd
          FROM (SELECT run_id, sum(reserved_usd) AS reserved_usd, sum(doubtful_usd) AS doubtful_usd
                  FROM owed GROUP BY run_id) AS owed
         WHERE runs.id = owed.run_id)
    UPDATE key_days SET reserved_usd = key_days.reserved_usd + owed.reserved_usd,
                        doubtful_usd = key_days.doubtful_usd + owed.doubtful_usd
      FROM (SELECT key_id, day, sum(reserved_usd) AS reserved_usd, sum(doubtful_usd) AS doubtful_usd
              FROM owed GROUP BY key_id, day) AS owed
     WHERE key_days.key_id = owed.key_id AND key_days.day = owed.day
    """  # noqa: S608 - constants of this module
)

# Whoever was at these calls is gone, and they may not be made again now. What they hold becomes
# doubtful all the same: if runs that wait for each other's dead calls held on to it, none would ever
# learn that too little is left. The runs and the days are locked.
DOUBT_CALLS = statement(
    f"""
    WITH {OPENINGS.replace("item AS", "offered AS", 1)},
    item AS MATERIALIZED (
        SELECT * FROM offered WHERE ordinality = ANY (CAST(:doubted AS bigint[]))),
    {forgetting(f"USING item WHERE {KEY_OF_CALL} AND claude_calls.state = :call_open")}
    UPDATE runs SET :free_calls_of_runs WHERE id IN (SELECT run_id FROM freed)
    """  # noqa: S608 - constants of this module
)

# --- settling ---------------------------------------------------------------------------------

# Whatever became of the lease: the money is spent. If nobody saw the end of the call, the rest of what
# was reserved becomes doubtful. A reservation is settled once; it is either with
# its call or, if that was opened again or is gone, among the doubtful ones, where it stays. It may
# have gone there after this statement's snapshot: then no row comes back, and a second look finds it.
#
# With the last result of a message batch that a run waits for, the run is due. The calls are locked,
# so that of two transactions with the last results one sees what the other has written.
SETTLE_CALLS = statement(
    """
    WITH item AS MATERIALIZED (
        SELECT * FROM json_to_recordset(CAST(:items AS json)) AS item (
            run_id uuid, step text, question text, number smallint, reservation uuid,
            answer jsonb, is_failed boolean, is_doubtful boolean, :cost_columns)),
    held AS MATERIALIZED (
        SELECT id AS run_id FROM runs
         WHERE id IN (SELECT run_id FROM item)
         ORDER BY id
           FOR UPDATE),
    settled AS (
        UPDATE claude_calls
           SET state = CASE WHEN item.is_failed THEN :call_failed ELSE :call_answered END,
               answer = item.answer
          FROM held JOIN item USING (run_id)
         WHERE claude_calls.run_id = held.run_id AND claude_calls.step = item.step
           AND claude_calls.question = decode(item.question, 'hex')
           AND claude_calls.number = item.number
           AND claude_calls.reservation = item.reservation
           AND claude_calls.state IN :call_unsettled
     RETURNING claude_calls.run_id, claude_calls.reservation, key_id, day,
               worst_usd AS reserved_usd,
               CASE WHEN item.is_doubtful THEN least(item.cost_usd - worst_usd, 0) ELSE 0 END
                   AS doubtful_usd,
               request IS NOT NULL AS is_batch),
    late AS (
        DELETE FROM doubtful_calls USING held JOIN item USING (run_id)
         WHERE doubtful_calls.run_id = held.run_id
           AND doubtful_calls.reservation = item.reservation
     RETURNING doubtful_calls.run_id, doubtful_calls.reservation, key_id, day,
               0::numeric AS reserved_usd, worst_usd AS doubtful_usd, false AS is_batch),
    ended AS MATERIALIZED (
        SELECT * FROM settled UNION ALL SELECT * FROM late),
    paid AS MATERIALIZED (
        SELECT ended.*, step, :item_cost FROM ended JOIN item USING (run_id, reservation)),
    awaited AS MATERIALIZED (
        SELECT claude_calls.run_id
          FROM held JOIN claude_calls USING (run_id)
         WHERE claude_calls.state IN (:call_waiting, :call_submitted)
           AND claude_calls.reservation NOT IN (SELECT reservation FROM item)
           FOR UPDATE OF claude_calls),
    of_runs AS (
        UPDATE runs
           SET reserved_usd = runs.reserved_usd - paid.reserved_usd,
               doubtful_usd = runs.doubtful_usd - paid.doubtful_usd,
               next_at = CASE WHEN paid.is_complete AND runs.state = :run_queued
                         THEN least(next_at, now()) ELSE next_at END,
               hint_at = CASE WHEN paid.is_complete AND runs.state = :run_queued
                         THEN least(hint_at, now()) ELSE hint_at END,
               :add_cost_to_runs
          FROM (SELECT run_id, sum(reserved_usd) AS reserved_usd,
                       sum(doubtful_usd) AS doubtful_usd, :sum_cost,
                       bool_or(is_batch) AND run_id NOT IN (SELECT run_id FROM awaited)
                           AS is_complete
                  FROM paid GROUP BY run_id) AS paid
         WHERE runs.id = paid.run_id),
    of_steps AS (
        UPDATE steps SET :add_cost_to_steps
          FROM (SELECT run_id, step, :sum_cost FROM paid GROUP BY run_id, step) AS paid
         WHERE steps.run_id = paid.run_id AND steps.name = paid.step),
    days AS MATERIALIZED (
        SELECT key_id, day FROM key_days
         WHERE (key_id, day) IN (SELECT key_id, day FROM paid)
         ORDER BY key_id, day
           FOR UPDATE),
    of_days AS (
        UPDATE key_days
           SET reserved_usd = key_days.reserved_usd - paid.reserved_usd,
               doubtful_usd = key_days.doubtful_usd - paid.doubtful_usd,
               :add_cost_to_key_days
          FROM days JOIN (
              SELECT key_id, day, sum(reserved_usd) AS reserved_usd,
                     sum(doubtful_usd) AS doubtful_usd, :sum_cost
                FROM paid GROUP BY key_id, day) AS paid USING (key_id, day)
         WHERE key_days.key_id = days.key_id AND key_days.day = days.day)
    SELECT reservation FROM ended
    """
)
