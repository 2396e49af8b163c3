"""Batches in the record: all or nothing, safe to repeat, counted, cancelled and tried again together."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from uuid_utils.compat import uuid7

from config.postgres import PostgresSettings
from services.core.errors import (
    IdempotencyConflictError,
    KeyRevokedError,
    QueueFullError,
    RunNotFoundError,
    StoreUnavailableError,
)
from services.core.runs.batch_models import (
    AcceptedBatch,
    BatchChunk,
    BatchProgress,
    BatchRow,
    NewBatch,
    RowError,
)
from services.core.runs.encoding import MalformedCursorError
from services.core.runs.models import ApiKey, DueHint, Failure
from services.core.runs.states import FailureReason, RunMode, RunState
from services.core.runs.store import RunStore
from tests.integration.conftest import StoreFactory
from tests.integration.core.runs.pieces import (
    SHAPES,
    STEPS,
    TRACEPARENT,
    accept,
    events_of,
    run_sql,
)

CUT_CONNECTIONS = """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
     WHERE datname = current_database() AND pid <> pg_backend_pid()
"""
FAILURE = Failure(FailureReason.PERMANENT, "parse", "It cannot be done.", 1)


def new_batch(api_key: ApiKey, **changes: Any) -> NewBatch:
    """What runs of a batch might have in common."""
    usual: dict[str, Any] = {
        "key_id": api_key.id,
        "pipeline": "outreach_email",
        "step_names": STEPS,
        "metadata": {"campaign": "spring"},
        "budget_usd": Decimal("0.5"),
        "priority": 3,
        "traceparent": TRACEPARENT,
    }
    return NewBatch(**(usual | changes))


async def chunks_of(*sizes: int, bad: Sequence[RowError] = ()) -> AsyncGenerator[BatchChunk, None]:
    """Chunks of good rows, and bad ones with the first."""
    row = 0
    for size in sizes:
        rows = [BatchRow(row + number, f'{{"n": {row + number}}}') for number in range(1, size + 1)]
        row += size
        yield BatchChunk(rows, bad)
        bad = ()


async def failing(*sizes: int) -> AsyncGenerator[BatchChunk, None]:
    """Chunks, and then an error."""
    async for chunk in chunks_of(*sizes):
        yield chunk
    message = "row 9 is no row"
    raise LookupError(message)


async def post(store: RunStore, api_key: ApiKey, *sizes: int, **changes: Any) -> AcceptedBatch:
    """Accept a batch."""
    return await store.batches.accept_batch(new_batch(api_key, **changes), chunks_of(*sizes))


async def run_ids_of(store: RunStore, batch_id: UUID) -> list[UUID]:
    """The runs of a batch, in the order of their rows."""
    return [result.run_id for result in await store.batches.list_results(batch_id, after=0)]


async def end(store: RunStore, *ends: str) -> None:
    """Execute as many due runs, so that each ends as told."""
    leases = await store.claim_due_runs(owner="w1", limit=len(ends), shapes=SHAPES)
    for lease, how in zip(leases, ends, strict=True):
        if how == "failed":
            await store.fail_run(lease, FAILURE)
        else:
            await store.finish_run(lease, {"text": "a", "n": lease.input["n"]})


async def read(store: RunStore, api_key: ApiKey, accepted: AcceptedBatch) -> BatchProgress:
    """A batch."""
    return await store.batches.get_batch(api_key.id, accepted.batch_id)


async def test_a_batch_is_accepted_whole(store: RunStore, api_key: ApiKey) -> None:
    """Each good row is a run as if it had been posted alone; each bad one is kept with its errors."""
    bad = [
        RowError(6, 1, "/name", "Field\x00 required"),
        RowError(6, 2, "/x", "Extra"),
        RowError(8, 1, "", "y"),
    ]
    new = new_batch(api_key, mode=RunMode.BATCH)
    accepted = await store.batches.accept_batch(new, chunks_of(2, 3, bad=bad))

    batch = await read(store, api_key, accepted)
    assert accepted.is_new
    assert (batch.pipeline, batch.mode, batch.metadata) == (new.pipeline, new.mode, new.metadata)
    assert (batch.total, batch.accepted, batch.rejected) == (7, 5, 2)
    assert batch.counts == {state: 5 if state is RunState.QUEUED else 0 for state in RunState}
    assert (batch.progress, batch.cost_usd, batch.finished_at, batch.eta_s) == (0, 0, None, None)
    runs = [await store.get_run(api_key.id, run_id) for run_id in await run_ids_of(store, batch.id)]
    assert [(number, {"n": number}) for number in range(1, 6)] == [
        (run.batch_row, run.input) for run in runs
    ]
    assert list(accepted.first_run_ids) == [run.id for run in runs[:4]]
    for run in runs:
        assert (run.batch_id, run.mode, run.metadata) == (batch.id, RunMode.BATCH, new.metadata)
        assert (run.priority, run.budget_usd) == (3, Decimal("0.5"))
        assert run.trace_id == TRACEPARENT.split("-")[1]
        assert [step.name for step in run.steps] == list(STEPS)
        assert [event.type for event in await events_of(store, run)] == ["run.queued"]
    page = await store.batches.list_errors(api_key.id, batch.id, limit=2)
    rest = await store.batches.list_errors(api_key.id, batch.id, cursor=page.next_cursor)
    assert [(e.row, e.number, e.field) for e in bad] == [
        (e.row, e.number, e.field) for e in page.items + rest.items
    ]
    assert rest.next_cursor is None
    with pytest.raises(MalformedCursorError):
        await store.batches.list_errors(api_key.id, batch.id, cursor="AAAA")


async def test_its_runs_are_executed_as_any(store: RunStore, api_key: ApiKey) -> None:
    """Workers claim them, and their results are there in the order of the rows."""
    accepted = await post(store, api_key, 4)
    await end(store, "succeeded", "failed", "succeeded")

    batch = await read(store, api_key, accepted)
    results = await store.batches.list_results(batch.id, after=0)
    assert (batch.progress, batch.finished_at) == (0.75, None)
    assert batch.counts[RunState.SUCCEEDED] == 2
    assert batch.eta_s is not None
    assert 0 < batch.eta_s < 60
    assert [1, 2, 3, 4] == [result.row for result in results]
    done = [result for result in results if result.state is RunState.SUCCEEDED]
    assert [result.output for result in done] == [{"text": "a", "n": r.row} for r in done]
    [failed] = [result for result in results if result.state is RunState.FAILED]
    assert failed.failure == FAILURE
    assert await store.batches.list_output_keys(batch.id) == ["n", "text"]
    assert await store.batches.list_results(batch.id, after=2, limit=1) == [results[2]]

    await end(store, "succeeded")
    batch = await read(store, api_key, accepted)
    assert (batch.progress, batch.eta_s) == (1, 0)
    assert batch.finished_at is not None
    [again] = await store.batches.list_progress([batch.id, uuid7()])
    assert replace(again, at=batch.at) == batch


async def test_a_batch_is_all_or_nothing(
    store: RunStore, api_key: ApiKey, fresh_database: PostgresSettings
) -> None:
    """Whatever ends it in the middle: an error of its rows, a statement that fails, or its caller who leaves."""
    with pytest.raises(LookupError):
        await store.batches.accept_batch(new_batch(api_key), failing(1000, 1000))

    async def broken() -> AsyncGenerator[BatchChunk, None]:
        yield BatchChunk([BatchRow(1, "{}")], [])
        yield BatchChunk([BatchRow(1, "{}")], [])  # the same row again
        yield BatchChunk([BatchRow(2, "{}")], [])

    with pytest.raises(Exception, match="runs_batch"):
        await store.batches.accept_batch(new_batch(api_key), broken())

    async def endless() -> AsyncGenerator[BatchChunk, None]:
        async for chunk in chunks_of(1000):
            yield chunk
        await asyncio.sleep(60)

    posting = asyncio.create_task(store.batches.accept_batch(new_batch(api_key), endless()))
    await asyncio.sleep(0.5)
    posting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await posting

    assert (await store.list_runs(api_key.id)).items == ()
    assert (await store.batches.list_batches(api_key.id)).items == ()
    assert (await post(store, api_key, 3)).is_new  # and the store goes on


async def test_a_record_that_goes_away_in_the_middle_keeps_nothing(
    store: RunStore, api_key: ApiKey, fresh_database: PostgresSettings
) -> None:
    """And the same request again makes the batch."""
    keyed = {"idempotency_key": "1", "request_hash": b"a" * 32}

    async def cut() -> AsyncGenerator[BatchChunk, None]:
        async for chunk in chunks_of(500, 500):
            yield chunk
        await run_sql(fresh_database, CUT_CONNECTIONS)
        async for chunk in chunks_of(500):
            yield chunk

    with pytest.raises(StoreUnavailableError):
        await store.batches.accept_batch(new_batch(api_key, **keyed), cut())
    assert (await store.batches.list_batches(api_key.id)).items == ()
    assert (await store.list_runs(api_key.id)).items == ()

    again = await post(store, api_key, 500, **keyed)
    assert (await read(store, api_key, again)).counts[RunState.QUEUED] == 500


async def test_a_key_that_is_revoked_in_the_middle_keeps_nothing(
    store: RunStore, api_key: ApiKey
) -> None:
    """A batch may come in for a minute; whose it is must be valid to its end."""

    async def chunks() -> AsyncGenerator[BatchChunk, None]:
        async for chunk in chunks_of(2, 2):
            yield chunk
            await store.revoke_key(api_key.prefix)

    with pytest.raises(KeyRevokedError):
        await store.batches.accept_batch(new_batch(api_key), chunks())

    assert not (await store.list_runs(api_key.id)).items
    assert not (await store.batches.list_batches(api_key.id)).items


async def test_a_queue_without_room_for_all_takes_none(
    open_store: StoreFactory, api_key: ApiKey
) -> None:
    """Also if the room is too small for the last of them only."""
    store = open_store(max_queued_runs=10)
    with pytest.raises(QueueFullError):
        await post(store, api_key, 6, 5)
    assert (await store.list_runs(api_key.id)).items == ()

    await post(store, api_key, 6, 4)
    with pytest.raises(QueueFullError):
        await post(store, api_key, 1)


async def test_the_same_request_gives_the_same_batch(store: RunStore, api_key: ApiKey) -> None:
    """Also at the same time; another request under the same key is refused."""
    keyed = {"idempotency_key": "1", "request_hash": b"a" * 32}
    together = await asyncio.gather(*(post(store, api_key, 500, **keyed) for _ in range(4)))
    again = await post(store, api_key, 500, **keyed)

    assert {again.batch_id} == {accepted.batch_id for accepted in together}
    assert [True] == [accepted.is_new for accepted in (*together, again) if accepted.is_new]
    assert (await read(store, api_key, again)).total == 500
    with pytest.raises(IdempotencyConflictError):
        await post(store, api_key, 1, **(keyed | {"request_hash": b"b" * 32}))


async def test_batches_and_their_runs_are_listed(store: RunStore, api_key: ApiKey) -> None:
    """Newest first, page by page."""
    posted = [(await post(store, api_key, 3)).batch_id for _ in range(3)]
    alone = await accept(store, api_key)
    page = await store.batches.list_batches(api_key.id, limit=2)
    rest = await store.batches.list_batches(api_key.id, limit=2, cursor=page.next_cursor)
    first = await store.list_runs(api_key.id, batch_id=posted[0], limit=2)
    second = await store.list_runs(
        api_key.id, batch_id=posted[0], state=RunState.QUEUED, cursor=first.next_cursor
    )

    assert posted[::-1] == [batch.id for batch in page.items + rest.items]
    assert [3, 2, 1] == [run.batch_row for run in first.items + second.items]
    assert alone.id in {run.id for run in (await store.list_runs(api_key.id)).items}
    assert (await store.list_runs(api_key.id, batch_id=uuid7())).items == ()


async def test_a_batch_is_cancelled_in_the_middle(store: RunStore, api_key: ApiKey) -> None:
    """What has ended stays; what runs is stopped; others' runs go on."""
    accepted = await post(store, api_key, 1200)
    alone = await accept(store, api_key, input={"n": 0})
    await end(store, "succeeded", "failed")
    [running] = await store.claim_due_runs(owner="w1", limit=1, shapes=SHAPES)

    assert await store.batches.cancel_batch(api_key.id, accepted.batch_id) == 1198
    assert await store.batches.cancel_batch(api_key.id, accepted.batch_id) == 0

    batch = await read(store, api_key, accepted)
    counts = {state: batch.counts[state] for state in (RunState.SUCCEEDED, RunState.FAILED)}
    assert counts == {RunState.SUCCEEDED: 1, RunState.FAILED: 1}
    assert batch.counts[RunState.CANCELLED] == 1198
    assert batch.finished_at is not None
    stopped = await store.get_run(api_key.id, running.run_id)
    assert stopped.steps[0].error == "The run was cancelled."
    assert await store.find_held([running]) == set()
    assert (await store.get_run(api_key.id, alone.id)).state is RunState.QUEUED


async def test_only_the_failed_runs_of_the_batch_are_tried_again(
    store: RunStore, api_key: ApiKey
) -> None:
    """Neither those of another batch, nor those that were cancelled."""
    other = await post(store, api_key, 1)
    await end(store, "failed")
    accepted = await post(store, api_key, 4)
    await end(store, "failed", "succeeded", "failed")
    await store.batches.cancel_batch(api_key.id, accepted.batch_id)
    results = await store.batches.list_results(accepted.batch_id, after=0)
    failed = sorted(result.run_id for result in results if result.state is RunState.FAILED)

    hints = await store.replay_failed_runs(
        api_key.id,
        batch_id=accepted.batch_id,
        shapes={"outreach_email": STEPS},
    )

    assert [DueHint(run_id, is_isolated=False) for run_id in failed] == hints
    batch = await read(store, api_key, accepted)
    assert (batch.counts[RunState.QUEUED], batch.counts[RunState.CANCELLED]) == (2, 1)
    assert (await read(store, api_key, other)).counts[RunState.FAILED] == 1


async def test_a_key_sees_only_its_own_batches(store: RunStore, api_key: ApiKey) -> None:
    """To others there is nothing."""
    accepted = await post(store, api_key, 1)
    stranger = uuid7()
    for asked in (
        store.batches.get_batch(stranger, accepted.batch_id),
        store.batches.list_errors(stranger, accepted.batch_id),
        store.batches.cancel_batch(stranger, accepted.batch_id),
        store.batches.get_batch(api_key.id, uuid7()),
    ):
        with pytest.raises(RunNotFoundError):
            await asked

    assert (await store.batches.list_batches(stranger)).items == ()
    assert (await read(store, api_key, accepted)).counts[RunState.QUEUED] == 1


async def test_the_estimate_is_of_the_last_minute(
    store: RunStore, api_key: ApiKey, fresh_database: PostgresSettings
) -> None:
    """What ended earlier says nothing about now."""
    accepted = await post(store, api_key, 20)
    await end(store, *["succeeded"] * 10)
    await run_sql(
        fresh_database,
        "UPDATE batches SET created_at = now() - interval '10 minutes'",
        "UPDATE runs SET finished_at = now() - interval '9 minutes' WHERE finished_at IS NOT NULL",
    )
    assert (await read(store, api_key, accepted)).eta_s is None

    await end(store, *["succeeded"] * 5)
    assert (await read(store, api_key, accepted)).eta_s == 60.0
