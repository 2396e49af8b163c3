"""The SQL of message batches. MessageBatchRecord says what each statement is for."""

from services.core.runs.sql import statement

HAS_WORK = statement(
    """
    SELECT EXISTS (SELECT FROM claude_calls WHERE state = :call_waiting)
        OR EXISTS (SELECT FROM message_batches WHERE state = :message_batch_submitting) AS has_work
    """
)

# They were never sent, so nothing is doubtful.
DROP_UNWANTED_CALLS = statement(
    """
    WITH held AS MATERIALIZED (
        SELECT id AS run_id FROM runs
         WHERE id IN (SELECT run_id FROM claude_calls WHERE state = :call_waiting)
           AND state NOT IN (:run_queued, :run_running)
         ORDER BY id
           FOR UPDATE),
    dropped AS MATERIALIZED (
        DELETE FROM claude_calls USING held
         WHERE claude_calls.run_id = held.run_id AND claude_calls.state = :call_waiting
     RETURNING claude_calls.run_id, key_id, day, worst_usd),
    of_runs AS (
        UPDATE runs SET reserved_usd = runs.reserved_usd - owed.worst_usd
          FROM (SELECT run_id, sum(worst_usd) AS worst_usd FROM dropped GROUP BY run_id) AS owed
         WHERE runs.id = owed.run_id),
    days AS MATERIALIZED (
        SELECT key_id, day FROM key_days
         WHERE (key_id, day) IN (SELECT key_id, day FROM dropped)
         ORDER BY key_id, day
           FOR UPDATE),
    of_days AS (
        UPDATE key_days SET reserved_usd = key_days.reserved_usd - owed.worst_usd
          FROM days JOIN (
              SELECT key_id, day, sum(worst_usd) AS worst_usd FROM dropped GROUP BY key_id, day
          ) AS owed USING (key_id, day)
         WHERE key_days.key_id = days.key_id AND key_days.day = days.day)
    SELECT run_id FROM dropped
    """
)

# Nothing is waited for: whoever is at a call keeps it out of this batch. A custom_id is tag of the
# batch, run and reservation, 64 characters of [A-Za-z0-9_-], which is what the API takes; run and
# reservation name what is to be settled even if the call itself is gone by then.
GATHER = statement(
    """
    WITH eligible AS MATERIALIZED (
        SELECT claude_calls.run_id, step, question, number, reservation, opened_at
          FROM claude_calls JOIN runs ON runs.id = claude_calls.run_id
         WHERE claude_calls.state = :call_waiting AND runs.state = :run_queued
         ORDER BY opened_at
         LIMIT CAST(:max_calls AS bigint)
           FOR UPDATE OF claude_calls SKIP LOCKED),
    batch AS (
        INSERT INTO message_batches (id, state, size)
        SELECT CAST(:batch_id AS uuid), :message_batch_submitting, count(*) FROM eligible
        HAVING (min(opened_at) <= now() - make_interval(secs => CAST(:linger_s AS double precision))
                OR count(*) >= CAST(:max_calls AS bigint))
           -- A rate limit holds for all processes: see HOLD_OFF.
           AND NOT EXISTS (SELECT FROM message_batches
                            WHERE state = :message_batch_ended AND polled_at > now())
     RETURNING id)
    UPDATE claude_calls
       SET state = :call_submitted, message_batch_id = batch.id,
           custom_id = left(replace(batch.id::text, '-', ''), 18)
               || '_' || translate(encode(uuid_send(eligible.run_id), 'base64'), '+/=', '-_')
               || '_' || translate(encode(uuid_send(eligible.reservation), 'base64'), '+/=', '-_')
      FROM eligible, batch
     WHERE claude_calls.run_id = eligible.run_id AND claude_calls.step = eligible.step
       AND claude_calls.question = eligible.question AND claude_calls.number = eligible.number
 RETURNING claude_calls.run_id
    """
)

# The page is found before a request is read: each is large, and in a table of its own.
READ_REQUESTS = statement(
    """
    WITH page AS MATERIALIZED (
        SELECT opened_at, custom_id
          FROM claude_calls
         WHERE message_batch_id = :batch_id AND state = :call_submitted
           AND (opened_at, custom_id) > (CAST(:after_at AS timestamptz), CAST(:after AS text))
         ORDER BY opened_at, custom_id
         LIMIT CAST(:up_to AS bigint))
    SELECT page.opened_at, page.custom_id, request::text AS params
      FROM page JOIN claude_calls USING (custom_id)
     ORDER BY opened_at, custom_id
    """
)

# They were not sent, and nobody has sent the batch yet.
RETURN_REST = statement(
    """
    WITH held AS MATERIALIZED (
        SELECT id AS run_id FROM runs
         WHERE id IN (SELECT run_id FROM claude_calls WHERE message_batch_id = :batch_id)
         ORDER BY id
           FOR UPDATE)
    UPDATE claude_calls
       SET state = :call_waiting, message_batch_id = NULL, custom_id = NULL
      FROM held
     WHERE claude_calls.run_id = held.run_id AND claude_calls.message_batch_id = :batch_id
       AND claude_calls.state = :call_submitted
       AND (opened_at, custom_id) > (CAST(:after_at AS timestamptz), CAST(:after AS text))
    """
)

# After RELEASE. What is left of a refused message batch says until when none is to be sent: it has
# no calls, Claude does not know it, and polled_at is when to look again.
HOLD_OFF = statement(
    """
    INSERT INTO message_batches (id, state, size, ended_at, polled_at)
    VALUES (:batch_id, :message_batch_ended, 0, now(),
            now() + make_interval(secs => CAST(:wait_s AS double precision)))
        ON CONFLICT (id) DO UPDATE SET polled_at = excluded.polled_at
    """
)

CONFIRM = statement(
    """
    UPDATE message_batches SET size = CAST(:size AS integer)
     WHERE id = :batch_id AND state = :message_batch_submitting
 RETURNING id
    """
)

NOTE_SUBMITTED = statement(
    """
    UPDATE message_batches
       SET state = :message_batch_submitted, claude_id = :claude_id, submitted_at = now()
     WHERE id = :batch_id AND state = :message_batch_submitting
 RETURNING id
    """
)

RELEASE = statement(
    """
    WITH held AS MATERIALIZED (
        SELECT id AS run_id FROM runs
         WHERE id IN (SELECT run_id FROM claude_calls WHERE message_batch_id = :batch_id)
         ORDER BY id
           FOR UPDATE),
    returned AS (
        UPDATE claude_calls
           SET state = :call_waiting, message_batch_id = NULL, custom_id = NULL
          FROM held
         WHERE claude_calls.run_id = held.run_id AND claude_calls.message_batch_id = :batch_id
           AND claude_calls.state = :call_submitted),
    kept AS (
        -- With calls that failed for its refusal.
        UPDATE message_batches SET state = :message_batch_ended, ended_at = now()
         WHERE id = :batch_id AND state = :message_batch_submitting
           AND EXISTS (SELECT FROM claude_calls
                        WHERE message_batch_id = :batch_id AND state <> :call_submitted))
    DELETE FROM message_batches
     WHERE id = :batch_id AND state = :message_batch_submitting
       AND NOT EXISTS (SELECT FROM claude_calls
                        WHERE message_batch_id = :batch_id AND state <> :call_submitted)
    """
)

# Whoever was sending it does not hold the lock any more. Until it has a claude_id, polled_at is
# when that was first noticed.
LIST_DOUBTFUL = statement(
    """
    WITH doubted AS (
        UPDATE message_batches SET polled_at = coalesce(polled_at, now())
         WHERE state = :message_batch_submitting
     RETURNING id, size, created_at, polled_at AS doubted_at,
               polled_at < now() - make_interval(secs => CAST(:doubt_s AS double precision))
                   AS is_overdue)
    SELECT * FROM doubted ORDER BY created_at
    """
)

FIND_KNOWN = statement(
    """
    SELECT claude_id FROM message_batches WHERE claude_id = ANY (CAST(:claude_ids AS text[]))
    """
)

LIST_SUBMITTED = statement(
    """
    WITH polled AS (
        UPDATE message_batches SET polled_at = now() WHERE state = :message_batch_submitted
     RETURNING id, claude_id, size, created_at)
    SELECT id, claude_id, size,
           NOT EXISTS (
               SELECT FROM claude_calls JOIN runs ON runs.id = claude_calls.run_id
                WHERE claude_calls.message_batch_id = polled.id
                  AND claude_calls.state = :call_submitted
                  AND runs.state IN (:run_queued, :run_running)) AS is_unwanted
      FROM polled
     ORDER BY created_at
    """
)

# The call by its name in the batch; or, if it was opened again or is gone since, what is left of
# it among the doubtful ones.
FIND_CALLS = statement(
    """
    WITH item AS MATERIALIZED (
        SELECT * FROM json_to_recordset(CAST(:items AS json))
                   AS item (name text, run_id uuid, reservation uuid))
    SELECT name, custom_id, claude_calls.run_id, step, question, number, claude_calls.reservation,
           model, tries
      FROM item JOIN claude_calls ON claude_calls.custom_id = item.name
     WHERE state = :call_submitted
     UNION ALL
    SELECT name, NULL, doubtful_calls.run_id, step, ''::bytea, 0, doubtful_calls.reservation, '', 0
      FROM item JOIN doubtful_calls
        ON doubtful_calls.run_id = item.run_id AND doubtful_calls.reservation = item.reservation
    """
)

LIST_CALLS = statement(
    """
    SELECT custom_id, run_id, step, question, number, reservation, model, tries
      FROM claude_calls
     WHERE message_batch_id = :batch_id AND state = :call_submitted
     ORDER BY custom_id
     LIMIT CAST(:up_to AS bigint)
    """
)

RETURN_CALLS = statement(
    """
    WITH held AS MATERIALIZED (
        SELECT id AS run_id FROM runs
         WHERE id IN (SELECT run_id FROM claude_calls
                       WHERE custom_id = ANY (CAST(:custom_ids AS text[])))
         ORDER BY id
           FOR UPDATE)
    UPDATE claude_calls
       SET state = :call_waiting, message_batch_id = NULL, custom_id = NULL, tries = tries + 1
      FROM held
     WHERE claude_calls.run_id = held.run_id
       AND claude_calls.custom_id = ANY (CAST(:custom_ids AS text[]))
       AND claude_calls.state = :call_submitted
    """
)

END = statement(
    """
    UPDATE message_batches SET state = :message_batch_ended, ended_at = now()
     WHERE id = :batch_id AND state = :message_batch_submitted
    """
)

# A call keeps the name of its message batch for as long as there is one.
FORGET_BATCHES = statement(
    """
    WITH old AS (
        SELECT id FROM message_batches
         WHERE state = :message_batch_ended AND greatest(ended_at, polled_at) < now()
               - make_interval(secs => CAST(:keep_s AS double precision))
           AND NOT EXISTS (SELECT FROM claude_calls WHERE message_batch_id = message_batches.id)
         LIMIT CAST(:up_to AS bigint)
           FOR UPDATE SKIP LOCKED)
    DELETE FROM message_batches USING old WHERE message_batches.id = old.id RETURNING old.id
    """
)

# What is reserved is of calls that are yet to be settled.
FORGET_KEY_DAYS = statement(
    """
    WITH old AS (
        SELECT key_id, day FROM key_days
         WHERE day < (now() - make_interval(secs => CAST(:keep_s AS double precision)))::date
           AND reserved_usd = 0
         LIMIT CAST(:up_to AS bigint)
           FOR UPDATE SKIP LOCKED)
    DELETE FROM key_days USING old
     WHERE key_days.key_id = old.key_id AND key_days.day = old.day
 RETURNING old.day
    """
)
