"""An ended run is executed again: the same run, a new attempt, the past one kept."""

import asyncio

import pytest

from config.postgres import PostgresSettings
from services.core.errors import (
    LeaseLostError,
    QueueFullError,
    ReplayStepError,
    RunNotFoundError,
    RunNotReplayableError,
)
from services.core.runs.models import ApiKey, Checkpoint, DueHint, Failure, Run, shape_of
from services.core.runs.states import EventType, FailureReason, RunState, StepState
from services.core.runs.store import RunStore
from tests.integration.conftest import StoreFactory
from tests.integration.core.runs.pieces import (
    COST,
    SHAPES,
    STEPS,
    accept,
    begin_step,
    claim,
    events_of,
    pay,
    run_sql,
)

FAILURE = Failure(FailureReason.RETRIES_EXHAUSTED, "research", "503", 5)


async def fail(store: RunStore, *, done: tuple[str, ...] = ("parse",)) -> None:
    """Execute the one due run until it fails."""
    lease = await claim(store)
    for step in done:
        await begin_step(store, lease, step)
        await pay(store, lease, step)
        await store.record_checkpoint(lease, Checkpoint(step, {"of": step}))
    if going_on := [step for step in STEPS if step not in done]:
        await begin_step(store, lease, going_on[0])
        await pay(store, lease, going_on[0])
    await store.fail_run(lease, FAILURE)


async def replay(
    store: RunStore,
    api_key: ApiKey,
    run: Run,
    from_step: str | None = None,
    steps: tuple[str, ...] = STEPS,
) -> Run:
    """Replay a run."""
    return await store.replay_run(
        api_key.id, run.id, step_names=steps, from_step=from_step, input=None
    )


async def test_a_replay_is_a_new_attempt_of_the_same_run(store: RunStore, api_key: ApiKey) -> None:
    """What was done stays done, the rest begins anew, cost and events go on counting."""
    run = await accept(store, api_key)
    await fail(store)
    failed = await store.get_run(api_key.id, run.id)

    replayed = await replay(store, api_key, run)

    assert replayed == await store.get_run(api_key.id, run.id)
    assert (replayed.state, replayed.replays) == (RunState.QUEUED, 1)
    assert (replayed.started_at, replayed.finished_at) == (None, None)
    assert (replayed.failure, replayed.output) == (None, None)
    assert (replayed.usage, replayed.cost_usd) == (failed.usage, failed.cost_usd)
    parse, research, compose = replayed.steps
    assert parse == failed.steps[0]
    assert (research.state, research.attempts, research.cost_usd) == (StepState.PENDING, 1, COST)
    assert (research.error, research.started_at, research.finished_at) == (None, None, None)
    assert compose == failed.steps[2]
    told = (await events_of(store, run))[-1]
    assert (told.type, told.data) == (
        EventType.RUN_QUEUED,
        {"replay": 1, "from_step": "research"},
    )


async def test_the_next_holder_goes_on_where_the_replay_begins(
    store: RunStore, api_key: ApiKey
) -> None:
    """It gets the kept checkpoints and a fresh count of failed tries; the start is told again."""
    run = await accept(store, api_key)
    await fail(store)
    first = await store.get_run(api_key.id, run.id)
    await replay(store, api_key, run)

    lease = await claim(store)

    assert lease.checkpoints == {"parse": {"of": "parse"}}
    assert lease.step_attempts == dict.fromkeys(STEPS, 0)
    assert lease.started_attempt == 2
    running = await store.get_run(api_key.id, run.id)
    assert first.started_at is not None
    assert running.started_at is not None
    assert running.started_at > first.started_at
    types = [event.type for event in await events_of(store, run)]
    assert types.count(EventType.RUN_STARTED) == 2
    assert types[-3:] == [EventType.RUN_QUEUED, EventType.RUN_STARTED, EventType.STEP_STARTED]
    for step in ("research", "compose"):
        await store.record_checkpoint(lease, Checkpoint(step, {"of": step}))
    await store.finish_run(lease, {"o": 1})
    assert (await store.get_run(api_key.id, run.id)).state is RunState.SUCCEEDED


async def test_the_history_keeps_every_attempt(store: RunStore, api_key: ApiKey) -> None:
    """Input, failure, steps with their outputs, and times, as they were before each replay."""
    run = await accept(store, api_key)
    assert await store.list_history(api_key.id, run.id) == []
    await fail(store)
    first = await store.get_run(api_key.id, run.id)
    await store.replay_run(
        api_key.id, run.id, step_names=STEPS, from_step="parse", input={"other": "input\0"}
    )
    await store.cancel_run(api_key.id, run.id)
    second = await store.get_run(api_key.id, run.id)
    third = await replay(store, api_key, run)

    past = await store.list_history(api_key.id, run.id)

    assert [attempt.number for attempt in past] == [1, 2]
    for attempt, then in zip(past, (first, second), strict=True):
        assert (attempt.state, attempt.failure, attempt.output) == (
            then.state,
            then.failure,
            then.output,
        )
        assert (attempt.input, attempt.steps) == (then.input, then.steps)
        assert (attempt.started_at, attempt.finished_at) == (then.started_at, then.finished_at)
    assert (past[0].input, second.input) == (run.input, {"other": "input\ufffd"})
    assert past[0].steps[0].output == {"of": "parse"}
    assert third.replays == 2
    assert third.steps[0].output is None
    assert third.input == second.input


async def test_a_run_is_replayed_from_a_chosen_step(store: RunStore, api_key: ApiKey) -> None:
    """Later checkpoints are dropped, earlier ones kept."""
    run = await accept(store, api_key)
    await fail(store, done=("parse", "research"))

    replayed = await replay(store, api_key, run, "research")

    assert [step.output for step in replayed.steps] == [{"of": "parse"}, None, None]
    assert [step.state for step in replayed.steps] == ["succeeded", "pending", "pending"]


async def test_a_run_with_all_its_checkpoints_is_only_finished(
    store: RunStore, api_key: ApiKey
) -> None:
    """Nothing that was paid for is paid for again, even if the failure came after the last step."""
    run = await accept(store, api_key)
    await fail(store, done=STEPS)

    replayed = await replay(store, api_key, run)

    assert {step.state for step in replayed.steps} == {StepState.SUCCEEDED}
    assert (await events_of(store, run))[-1].data == {"replay": 1, "from_step": None}
    assert set((await claim(store)).checkpoints) == set(STEPS)


async def test_todays_pipeline_takes_the_place_of_the_old(store: RunStore, api_key: ApiKey) -> None:
    """A replay after a deployment has the new steps; only the common beginning is kept."""
    run = await accept(store, api_key)
    await fail(store, done=("parse", "research"))
    today = ("parse", "write", "research")

    replayed = await replay(store, api_key, run, steps=today)

    assert [step.name for step in replayed.steps] == list(today)
    assert [step.state for step in replayed.steps] == ["succeeded", "pending", "pending"]
    assert replayed.steps[2].attempts == 1
    assert replayed.cost_usd == 3 * COST
    assert await store.claim_due_runs(owner="old", limit=1, shapes=SHAPES) == []
    shapes = [shape_of("outreach_email", today)]
    [lease] = await store.claim_due_runs(owner="new", limit=1, shapes=shapes)
    assert lease.checkpoints == {"parse": {"of": "parse"}}
    with pytest.raises(ValueError, match="no step 'compose'"):
        await store.start_step(lease, "compose")


@pytest.mark.parametrize("state", ["queued", "running", "succeeded"])
async def test_what_has_not_failed_is_not_replayed(
    store: RunStore, api_key: ApiKey, state: str
) -> None:
    """A run that waits, runs or is done is left as it is."""
    run = await accept(store, api_key)
    if state != "queued":
        lease = await claim(store)
    if state == "succeeded":
        await store.finish_run(lease, {})
    before = await store.get_run(api_key.id, run.id)

    with pytest.raises(RunNotReplayableError):
        await replay(store, api_key, run)

    assert before == await store.get_run(api_key.id, run.id)
    assert await store.list_history(api_key.id, run.id) == []


async def test_a_refused_replay_changes_nothing(store: RunStore, api_key: ApiKey) -> None:
    """Neither another key's, nor one from a step that cannot be, nor with a useless input."""
    other = await store.add_key(name="other", prefix="0" * 12, key_hash=b"0" * 32)
    run = await accept(store, api_key)
    await fail(store)
    before = await store.get_run(api_key.id, run.id)

    with pytest.raises(RunNotFoundError):
        await replay(store, other, run)
    with pytest.raises(RunNotFoundError):
        await store.list_history(other.id, run.id)
    for from_step in ("typo", "compose"):
        with pytest.raises(ReplayStepError):
            await replay(store, api_key, run, from_step)
    with pytest.raises(ReplayStepError):
        await store.replay_run(
            api_key.id, run.id, step_names=STEPS, from_step="research", input={"x": 1}
        )

    assert before == await store.get_run(api_key.id, run.id)


async def test_a_full_queue_takes_no_replay(open_store: StoreFactory, api_key: ApiKey) -> None:
    """Replays count as what they are: more work."""
    store = open_store()
    run = await accept(store, api_key)
    await fail(store)
    await accept(store, api_key)
    full = open_store(max_queued_runs=1)

    with pytest.raises(QueueFullError):
        await replay(full, api_key, run)
    with pytest.raises(QueueFullError):
        await full.replay_failed_runs(api_key.id, shapes={"outreach_email": STEPS})

    assert (await store.get_run(api_key.id, run.id)).state is RunState.FAILED


@pytest.mark.parametrize(
    ("reason", "is_isolated"), [(FailureReason.CRASHED, True), (FailureReason.TIMED_OUT, False)]
)
async def test_only_a_run_that_killed_its_process_stays_alone(
    open_store: StoreFactory,
    api_key: ApiKey,
    fresh_database: PostgresSettings,
    reason: FailureReason,
    is_isolated: bool,  # noqa: FBT001 - a parameter of the table
) -> None:
    """A replay begins its counts anew; what is known to be dangerous keeps its own process."""
    store = open_store(max_crashes=2, rehint_after_s=0)
    run = await accept(store, api_key)
    await claim(store)
    await store.bury_process("w1", culprit=run.id)
    lost = await store.claim_isolated_run(run.id, owner="i1", shapes=SHAPES)
    assert lost is not None
    if reason is FailureReason.CRASHED:
        await store.bury_process("i1", culprit=None)
    else:
        await store.release_run(lost)
        await run_sql(fresh_database, "UPDATE runs SET deadline_at = now() - interval '1 h'")
        await store.requeue_lapsed_runs()
    failed = await store.get_run(api_key.id, run.id)
    assert failed.failure is not None
    assert failed.failure.reason is reason

    replayed = await replay(store, api_key, run)

    assert (replayed.crashes, replayed.lapses) == (0, 0)
    assert await store.take_due_hints() == [DueHint(run.id, is_isolated=is_isolated)]
    alone = await store.claim_isolated_run(run.id, owner="i1", shapes=SHAPES)
    lease = alone or await claim(store)
    assert is_isolated == (alone is not None)
    assert lease.remaining_s > 80_000  # a deadline of its own


async def test_who_held_the_past_attempt_is_fenced_out(store: RunStore, api_key: ApiKey) -> None:
    """A worker that did not notice the cancel writes nothing into the new attempt."""
    run = await accept(store, api_key)
    zombie = await claim(store)
    await store.cancel_run(api_key.id, run.id)
    await replay(store, api_key, run)

    with pytest.raises(LeaseLostError):
        await store.start_step(zombie, "parse")
    holder = await claim(store)
    with pytest.raises(LeaseLostError):
        await store.start_step(zombie, "parse")

    assert await store.find_held([zombie]) == await store.renew_leases([zombie]) == set()
    assert holder.started_attempt == 2


async def test_one_of_many_replays_at_once_takes_effect(
    open_store: StoreFactory, api_key: ApiKey
) -> None:
    """A client that repeats itself gets one new attempt."""
    stores = [open_store() for _ in range(3)]
    run = await accept(stores[0], api_key)
    await fail(stores[0])

    results = await asyncio.gather(
        *(replay(stores[number % 3], api_key, run) for number in range(6)),
        *(
            store.replay_failed_runs(api_key.id, shapes={"outreach_email": STEPS})
            for store in stores
        ),
        return_exceptions=True,
    )

    single = [result for result in results if isinstance(result, Run)]
    bulk = [hint for result in results if isinstance(result, list) for hint in result]
    assert len(single) + len(bulk) == 1
    assert (await stores[0].get_run(api_key.id, run.id)).replays == 1
    assert len(await stores[0].list_history(api_key.id, run.id)) == 1
    await events_of(stores[0], run)


async def failed_run(
    store: RunStore, api_key: ApiKey, pipeline: str, reason: FailureReason, step: str | None = None
) -> Run:
    """A run that has failed."""
    run = await accept(store, api_key, pipeline=pipeline)
    lease = await claim(store)
    if step:
        await begin_step(store, lease, step)
        await store.record_checkpoint(lease, Checkpoint(step, {}))
    failure = Failure(reason, None, "m", 1)
    await store.fail_run(lease, failure)
    return run


async def test_dead_letters_are_filtered_and_replayed(store: RunStore, api_key: ApiKey) -> None:
    """By id, by pipeline, by reason, and all together; nothing else is touched."""
    other = await store.add_key(name="other", prefix="0" * 12, key_hash=b"0" * 32)
    first = await failed_run(store, api_key, "a", FailureReason.PERMANENT, "parse")
    second = await failed_run(store, api_key, "a", FailureReason.TIMED_OUT)
    third = await failed_run(store, api_key, "b", FailureReason.TIMED_OUT)
    foreign = await failed_run(store, other, "a", FailureReason.TIMED_OUT)
    cancelled = await accept(store, api_key, pipeline="a")
    await store.cancel_run(api_key.id, cancelled.id)
    shapes = {"a": STEPS, "b": STEPS}

    async def dead(**filters: object) -> list[object]:
        page = await store.list_dead_letters(api_key.id, **filters)  # type: ignore[arg-type]  # any filter
        return [run.id for run in page.items]

    assert await dead() == [third.id, second.id, first.id]
    assert await dead(pipeline="a") == [second.id, first.id]
    assert await dead(reason=FailureReason.TIMED_OUT) == [third.id, second.id]
    assert await dead(pipeline="a", reason=FailureReason.TIMED_OUT) == [second.id]
    page = await store.list_dead_letters(api_key.id, limit=2)
    assert await dead(cursor=page.next_cursor) == [first.id]

    async def replayed(**filters: object) -> list[object]:
        hints = await store.replay_failed_runs(api_key.id, **({"shapes": shapes} | filters))  # type: ignore[arg-type]  # any filter
        return [hint.run_id for hint in hints]

    assert await replayed(ids=[foreign.id, cancelled.id]) == []
    assert await replayed(shapes={"b": STEPS}, pipeline="a") == []
    assert await replayed(ids=[first.id], pipeline="b") == []
    assert await replayed(ids=[first.id], pipeline="a") == [first.id]
    assert await replayed(reason=FailureReason.PERMANENT) == []
    assert await replayed(reason=FailureReason.TIMED_OUT) == [second.id, third.id]
    assert await replayed() == []
    assert await dead() == []
    assert (await store.get_run(api_key.id, first.id)).steps[0].state == "succeeded"
    assert (await store.get_run(other.id, foreign.id)).state is RunState.FAILED


FILL = """
    INSERT INTO runs (id, key_id, pipeline, state, input, metadata, failure, finished_at, event_seq,
                      attempts)
    SELECT gen_random_uuid(), id, 'a', 'failed', '{}', '{}',
           '{"reason": "permanent", "step": null, "message": "m", "attempts": 1}',
           now() - make_interval(secs => n), 0, 1
      FROM api_keys, generate_series(1, 2500) AS n
"""
FILL_STEPS = """
    INSERT INTO steps (run_id, name, position, state, output)
    SELECT id, name, position, CASE WHEN position < 3 THEN 'succeeded' ELSE 'failed' END,
           jsonb_build_object('text', repeat('x', 2000))
      FROM runs, unnest(ARRAY['parse', 'research', 'compose']) WITH ORDINALITY AS s(name, position)
"""


async def test_thousands_of_dead_letters_are_replayed_in_batches(
    open_store: StoreFactory, api_key: ApiKey, fresh_database: PostgresSettings
) -> None:
    """Each once, each in a short transaction, and until the queue is full."""
    await run_sql(fresh_database, FILL, FILL_STEPS)
    shapes = {"a": STEPS}

    some = await open_store(max_queued_runs=1500).replay_failed_runs(api_key.id, shapes=shapes)
    rest = await open_store().replay_failed_runs(api_key.id, shapes=shapes)

    assert 1500 <= len(some) < 2500
    assert len({hint.run_id for hint in some + rest}) == len(some) + len(rest) == 2500
    totals = await open_store().get_totals()
    assert totals.runs_by_state[RunState.QUEUED] == 2500
    replayed = (await open_store().list_runs(api_key.id, limit=1)).items[0]
    assert [step.state for step in replayed.steps] == ["succeeded", "succeeded", "pending"]


async def test_a_run_that_fails_again_meanwhile_is_left(
    store: RunStore, api_key: ApiKey, fresh_database: PostgresSettings
) -> None:
    """Only what had failed before the call began: or a quick failure would be replayed for ever."""
    run = await failed_run(store, api_key, "a", FailureReason.PERMANENT)
    await run_sql(fresh_database, "UPDATE runs SET finished_at = now() + interval '1 s'")

    assert await store.replay_failed_runs(api_key.id, shapes={"a": STEPS}) == []
    assert (await store.get_run(api_key.id, run.id)).state is RunState.FAILED
