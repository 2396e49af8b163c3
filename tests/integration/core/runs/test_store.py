"""The life of a run in the record."""

import asyncio
from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from itertools import pairwise
from uuid import uuid4

import pytest
from uuid_utils.compat import uuid7

from config.postgres import PostgresSettings
from services.core.errors import (
    IdempotencyConflictError,
    KeyRevokedError,
    LeaseLostError,
    QueueFullError,
    RunNotCancellableError,
    RunNotFoundError,
)
from services.core.runs.acceptance import Accepted
from services.core.runs.models import ApiKey, Checkpoint, Failure, NewEmail
from services.core.runs.states import EventType, FailureReason, RunState, StepState
from services.core.runs.store import RunStore
from tests.integration.conftest import StoreFactory
from tests.integration.core.runs.pieces import (
    COST,
    SHAPES,
    STEPS,
    USAGE,
    accept,
    begin_step,
    claim,
    events_of,
    new_run,
    pay,
    run_sql,
)


async def test_accept_run_gives_what_a_reader_sees(store: RunStore, api_key: ApiKey) -> None:
    """The answer to a POST and a later GET agree to the last field."""
    run, is_new = await store.accept_run(new_run(api_key))

    assert is_new
    assert run == await store.get_run(api_key.id, run.id)
    assert run.state is RunState.QUEUED
    assert run.trace_id == "0af7651916cd43dd8448eb211c80319c"
    assert [step.name for step in run.steps] == list(STEPS)
    assert [event.type for event in await events_of(store, run)] == [EventType.RUN_QUEUED]


async def test_a_run_goes_from_acceptance_to_success(store: RunStore, api_key: ApiKey) -> None:
    """Checkpoints, usage, output, email and events of a whole life are there to read."""
    run = await accept(store, api_key)
    lease = await claim(store)
    for name in STEPS:
        assert await begin_step(store, lease, name) == 1
        await pay(store, lease, name)
        await store.record_checkpoint(lease, Checkpoint(name, {"of": name}))
    email = NewEmail(uuid7(), "research", "Hello", "Dear Ada", {"campaign": "spring"})
    await store.finish_run(lease, {"subject": "Hello"}, email)

    done = await store.get_run(api_key.id, run.id)
    stored = await store.get_email(api_key.id, email.id)
    assert done.state is RunState.SUCCEEDED
    assert done.output == {"subject": "Hello"}
    assert done.usage == USAGE + USAGE + USAGE
    assert done.cost_usd == 3 * COST
    assert [step.output for step in done.steps] == [{"of": name} for name in STEPS]
    assert all(step.state is StepState.SUCCEEDED for step in done.steps)
    assert done.next_at is None
    assert done.started_at is not None
    assert done.finished_at is not None
    assert done.created_at <= done.started_at <= done.finished_at
    assert (stored.run_id, stored.body) == (run.id, "Dear Ada")
    of_step = [EventType.STEP_STARTED, EventType.STEP_SUCCEEDED]
    expected = [EventType.RUN_QUEUED, EventType.RUN_STARTED, *of_step * 3, EventType.RUN_SUCCEEDED]
    assert expected == [event.type for event in await events_of(store, run)]


async def test_a_lease_carries_all_that_executing_needs(store: RunStore, api_key: ApiKey) -> None:
    """The next holder gets input, checkpoints, failed tries, trace and budget."""
    run = await accept(store, api_key)
    first = await claim(store)
    await store.record_checkpoint(first, Checkpoint("parse", {"found": [1]}))
    await store.start_step(first, "research")
    await store.retry_run(first, step="research", error="503", delay_s=0)
    second = await claim(store)
    await store.release_run(second)

    third = await claim(store)

    assert (third.run_id, third.pipeline, third.input) == (run.id, run.pipeline, run.input)
    assert third.checkpoints == {"parse": {"found": [1]}}
    assert third.step_attempts == {"parse": 0, "research": 1, "compose": 0}
    assert first.fence < second.fence < third.fence
    assert third.budget_usd == Decimal("0.5")
    assert third.traceparent == first.traceparent
    assert third.created_at == run.created_at
    assert third.started_attempt == 3


async def test_a_retry_waits_and_keeps_what_the_try_cost(store: RunStore, api_key: ApiKey) -> None:
    """A failed try is paid for, told, and not tried again before its time."""
    run = await accept(store, api_key)
    lease = await claim(store)
    await pay(store, lease, "parse")
    await store.retry_run(lease, step="parse", error="overloaded", delay_s=60)

    waiting = await store.get_run(api_key.id, run.id)
    told = (await events_of(store, run))[-1]
    assert waiting.state is RunState.QUEUED
    assert waiting.next_at is not None
    assert 59 < (waiting.next_at - told.at).total_seconds() < 61
    assert (waiting.usage, waiting.cost_usd) == (USAGE, COST)
    step = waiting.steps[0]
    assert (step.state, step.error, step.usage) == (StepState.PENDING, "overloaded", USAGE)
    assert told.type is EventType.STEP_RETRYING
    assert {"step": "parse", "attempt": 1, "error": "overloaded"}.items() <= told.data.items()
    assert datetime.fromisoformat(told.data["next_at"]) == waiting.next_at
    assert await store.claim_due_runs(owner="w1", limit=10, shapes=SHAPES) == []
    assert await store.take_due_hints() == []


async def test_a_failed_run_says_why(store: RunStore, api_key: ApiKey) -> None:
    """Reason, step and message are in the run, in its step and in its last event."""
    run = await accept(store, api_key)
    lease = await claim(store)
    await pay(store, lease, "parse")
    failure = Failure(FailureReason.PERMANENT, "parse", "no placeholders", 1)
    await store.fail_run(lease, failure)

    failed = await store.get_run(api_key.id, run.id)
    told = (await events_of(store, run))[-1]
    assert (failed.state, failed.failure) == (RunState.FAILED, failure)
    assert (failed.usage, failed.cost_usd) == (USAGE, COST)
    assert failed.steps[0].state is StepState.FAILED
    assert failed.steps[0].error == "no placeholders"
    assert (told.type, told.data["reason"]) == (EventType.RUN_FAILED, "permanent")


async def test_a_failure_without_a_step_fails_the_one_that_runs(
    store: RunStore, api_key: ApiKey
) -> None:
    """No step of an ended run is left running."""
    run = await accept(store, api_key)
    lease = await claim(store)
    failure = Failure(FailureReason.TIMED_OUT, None, "too slow", 1)
    await store.fail_run(lease, failure)

    failed = await store.get_run(api_key.id, run.id)
    assert [step.state for step in failed.steps] == ["failed", "pending", "pending"]


async def test_a_checkpoint_is_written_once(store: RunStore, api_key: ApiKey) -> None:
    """The first output of a step stays; told again, nothing is counted twice."""
    run = await accept(store, api_key)
    lease = await claim(store)
    await pay(store, lease, "parse")
    await store.record_checkpoint(lease, Checkpoint("parse", {"n": 1}))
    await store.record_checkpoint(lease, Checkpoint("parse", {"n": 2}))

    running = await store.get_run(api_key.id, run.id)
    assert running.steps[0].output == {"n": 1}
    assert (running.usage, running.cost_usd) == (USAGE, COST)
    assert len(await events_of(store, run)) == 4
    with pytest.raises(ValueError, match="done already"):
        await store.start_step(lease, "parse")


async def test_a_checkpoint_starts_the_next_step(store: RunStore, api_key: ApiKey) -> None:
    """Both are one statement; told again, as after an outage, the try is the same and nothing is told."""
    run = await accept(store, api_key)
    lease = await claim(store)
    checkpoint = Checkpoint("parse", {"n": 1})
    first = await store.record_checkpoint(lease, checkpoint, next_step="research")
    again = await store.record_checkpoint(lease, checkpoint, next_step="research")

    running = await store.get_run(api_key.id, run.id)
    told = (await events_of(store, run))[-2:]
    assert (first, again) == (1, 1)
    assert [step.state for step in running.steps] == ["succeeded", "running", "pending"]
    assert running.steps[1].attempts == 1
    assert [(event.type, event.data) for event in told] == [
        (EventType.STEP_SUCCEEDED, {"step": "parse"}),
        (EventType.STEP_STARTED, {"step": "research", "attempt": 1}),
    ]


async def test_the_end_of_a_run_brings_the_last_checkpoint(
    store: RunStore, api_key: ApiKey
) -> None:
    """Output, checkpoint and both events are one statement; the events keep their order."""
    run = await accept(store, api_key)
    lease = await claim(store)
    for step, following in pairwise(STEPS):
        await store.record_checkpoint(lease, Checkpoint(step, {}), next_step=following)
    await pay(store, lease, STEPS[-1])
    await store.finish_run(lease, {"n": 1}, step=STEPS[-1])

    done = await store.get_run(api_key.id, run.id)
    events = await events_of(store, run)
    assert (done.state, done.output, done.reserved_usd) == (RunState.SUCCEEDED, {"n": 1}, 0)
    assert (done.steps[-1].state, done.steps[-1].output) == (StepState.SUCCEEDED, {"n": 1})
    assert [event.type for event in events[-2:]] == ["step.succeeded", "run.succeeded"]
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    with pytest.raises(LeaseLostError):
        await store.finish_run(lease, {"n": 2}, step=STEPS[-1])


async def test_an_unknown_step_is_refused(store: RunStore, api_key: ApiKey) -> None:
    """A worker of another version finds out at once that the run has no such step."""
    await accept(store, api_key)
    lease = await claim(store)

    with pytest.raises(ValueError, match="no step 'typo'"):
        await store.start_step(lease, "typo")
    with pytest.raises(ValueError, match="no step 'typo'"):
        await store.record_checkpoint(lease, Checkpoint("typo", {}))


async def test_what_jsonb_cannot_hold_is_stored_all_the_same(
    store: RunStore, api_key: ApiKey
) -> None:
    """A NUL or half a character from the web or a client never costs a run, nor its neighbours."""
    odd = "a\0b\ud800c\\u0000"
    run = await accept(store, api_key, input={"odd\0": odd}, metadata={"odd": odd})
    lease = await claim(store)
    await store.record_checkpoint(lease, Checkpoint("parse", {"odd": odd}))
    await store.retry_run(lease, step="parse", error=odd, delay_s=0)
    lease = await claim(store)
    email = NewEmail(uuid7(), "book", odd, odd, {"odd": odd})
    await store.finish_run(lease, {"odd": odd}, email)

    done = await store.get_run(api_key.id, run.id)
    stored = await store.get_email(api_key.id, email.id)
    expected = "a\ufffdb?c\\u0000"
    assert done.input == {"odd\ufffd": expected}
    assert done.output == done.metadata == stored.metadata == {"odd": expected}
    assert stored.subject == stored.body == expected
    assert (await store.list_runs(api_key.id, pipeline="\0")).items == ()
    assert (await store.list_emails(api_key.id, template_type="\0")).items == ()
    assert (await store.list_emails(api_key.id, metadata={"odd": odd})).items == (stored,)


async def test_a_nan_fails_its_own_caller(store: RunStore, api_key: ApiKey) -> None:
    """What JSON lacks is refused before it reaches a batch."""
    with pytest.raises(ValueError, match="JSON"):
        await accept(store, api_key, input={"n": float("nan")})


async def test_an_idempotency_key_makes_one_run(store: RunStore, api_key: ApiKey) -> None:
    """The same request again is the same run, another one under its key is refused."""
    request = new_run(api_key, idempotency_key="k", request_hash=b"1" * 32)
    first, is_first_new = await store.accept_run(request)
    again, is_again_new = await store.accept_run(request)

    assert (is_first_new, is_again_new) == (True, False)
    assert first == again
    with pytest.raises(IdempotencyConflictError):
        await store.accept_run(replace(request, request_hash=b"2" * 32))


async def test_a_revoked_key_makes_no_run(store: RunStore, open_store: StoreFactory) -> None:
    """Also one that has made runs before, whatever the queue; others in the same batch do not suffer."""
    revoked, valid = [
        await store.add_key(name="k", prefix=prefix * 12, key_hash=b"0" * 32) for prefix in "ab"
    ]
    request = new_run(revoked, idempotency_key="k", request_hash=b"1" * 32)
    await store.accept(request)
    await store.revoke_key(revoked.prefix)

    first, again, unknown, other = await asyncio.gather(
        store.accept(new_run(revoked)),
        store.accept(request),
        store.accept(replace(new_run(revoked), key_id=uuid4())),
        store.accept(new_run(valid)),
        return_exceptions=True,
    )
    with pytest.raises(KeyRevokedError):
        await open_store(max_queued_runs=1).accept(request)

    assert [KeyRevokedError] * 3 == [type(error) for error in (first, again, unknown)]
    assert isinstance(other, Accepted)
    assert len((await store.list_runs(revoked.id)).items) == 1
    assert len((await store.list_runs(valid.id)).items) == 1


async def test_a_full_queue_takes_no_more(open_store: StoreFactory, api_key: ApiKey) -> None:
    """Over the limit new runs are refused with a time to come back, repetitions are not."""
    store = open_store(max_queued_runs=2)
    request = new_run(api_key, idempotency_key="k", request_hash=b"1" * 32)
    first, _ = await store.accept_run(request)
    await accept(store, api_key)

    with pytest.raises(QueueFullError) as refused:
        await accept(store, api_key)

    assert refused.value.retry_after_s > 0
    assert (await store.accept_run(request))[0].id == first.id
    other = open_store(max_queued_runs=2)
    with pytest.raises(QueueFullError):
        await accept(other, api_key)


async def test_higher_priority_goes_first_then_the_earlier(
    store: RunStore, api_key: ApiKey
) -> None:
    """Claims come by priority, and by time within it, up to the limit."""
    runs = [await accept(store, api_key, priority=priority) for priority in (0, 5, 0, 5)]

    leases = await store.claim_due_runs(owner="w1", limit=3, shapes=SHAPES)

    assert [lease.run_id for lease in leases] == [runs[1].id, runs[3].id, runs[0].id]


async def test_run_started_is_told_once(store: RunStore, api_key: ApiKey) -> None:
    """A run that is given back and taken again has started only once."""
    run = await accept(store, api_key)
    await store.release_run(await claim(store))
    await claim(store)

    running = await store.get_run(api_key.id, run.id)
    types = [event.type for event in await events_of(store, run)]
    started = [EventType.RUN_STARTED, EventType.STEP_STARTED, EventType.STEP_STARTED]
    assert types == [EventType.RUN_QUEUED, *started]
    assert (running.attempts, running.crashes) == (2, 0)


async def test_a_cancelled_run_fences_its_holder_out(store: RunStore, api_key: ApiKey) -> None:
    """After a cancel nothing that the holder writes has an effect, and it learns so."""
    run = await accept(store, api_key)
    lease = await claim(store)

    cancelled = await store.cancel_run(api_key.id, run.id)

    assert cancelled.state is RunState.CANCELLED
    assert cancelled.finished_at is not None
    assert cancelled.steps[0].state is StepState.FAILED
    assert await store.renew_leases([lease]) == set()
    with pytest.raises(LeaseLostError):
        await store.record_checkpoint(lease, Checkpoint("parse", {}))
    with pytest.raises(LeaseLostError):
        await store.finish_run(lease, {})
    assert cancelled == await store.get_run(api_key.id, run.id)
    assert (await events_of(store, run))[-1].type is EventType.RUN_CANCELLED
    with pytest.raises(RunNotCancellableError):
        await store.cancel_run(api_key.id, run.id)


async def test_a_cancelled_queued_run_is_never_claimed(store: RunStore, api_key: ApiKey) -> None:
    """Cancelling what nobody has begun ends it there."""
    run = await accept(store, api_key)
    await store.cancel_run(api_key.id, run.id)

    assert await store.claim_due_runs(owner="w1", limit=10, shapes=SHAPES) == []


async def test_another_keys_run_does_not_exist(store: RunStore, api_key: ApiKey) -> None:
    """A key reads, lists and cancels its own runs and emails only."""
    other = await store.add_key(name="other", prefix="0" * 12, key_hash=b"0" * 32)
    run = await accept(store, api_key)
    email = NewEmail(uuid7(), "book", "s", "b", {})
    await store.finish_run(await claim(store), {}, email)

    with pytest.raises(RunNotFoundError):
        await store.get_run(other.id, run.id)
    with pytest.raises(RunNotFoundError):
        await store.cancel_run(other.id, run.id)
    with pytest.raises(RunNotFoundError):
        await store.get_email(other.id, email.id)
    assert (await store.list_runs(other.id)).items == ()
    assert (await store.list_emails(other.id)).items == ()


async def test_a_deleted_run_takes_its_steps_and_events_along(
    store: RunStore, api_key: ApiKey, fresh_database: PostgresSettings
) -> None:
    """Whoever deletes by hand, or one day to keep the record small, leaves nothing behind; others stay whole."""
    gone, kept = await accept(store, api_key), await accept(store, api_key)

    await run_sql(fresh_database, f"DELETE FROM runs WHERE id = '{gone.id}'")  # noqa: S608 - an id

    assert kept == await store.get_run(api_key.id, kept.id)
    assert not await store.list_events({gone.id: 0})
    assert len(await store.list_events({kept.id: 0})) == 1
    await run_sql(
        fresh_database,
        "DO $$ BEGIN ASSERT (SELECT count(DISTINCT run_id) FROM steps) = 1; END $$",
    )
