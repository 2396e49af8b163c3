"""Lists, pages, keys and numbers."""

import asyncio
import math

import pytest
from sqlalchemy import text
from uuid_utils.compat import uuid7

from config.postgres import PostgresSettings
from services.core.runs import vitals
from services.core.runs.encoding import MalformedCursorError
from services.core.runs.key_records import KeyPrefixTakenError
from services.core.runs.models import ApiKey, Checkpoint, Email, Failure, NewEmail, Run
from services.core.runs.states import FailureReason, RunState
from services.core.runs.store import RunStore
from services.migrate.engine import create_engine
from tests.integration.conftest import StoreFactory
from tests.integration.core.runs.pieces import COST, SHAPES, USAGE, accept, claim, pay


async def test_runs_come_newest_first_in_pages(store: RunStore, api_key: ApiKey) -> None:
    """Following the cursor gives every run once."""
    accepted = [(await accept(store, api_key)).id for _ in range(7)]

    found: list[Run] = []
    cursor = None
    sizes = []
    while True:
        page = await store.list_runs(api_key.id, cursor=cursor, limit=3)
        found += page.items
        sizes.append(len(page.items))
        if page.next_cursor is None:
            break
        cursor = page.next_cursor

    assert [run.id for run in found] == accepted[::-1]
    assert sizes == [3, 3, 1]


async def test_runs_are_filtered_by_state_and_pipeline(store: RunStore, api_key: ApiKey) -> None:
    """Each filter narrows the list, both together too."""
    first = await accept(store, api_key, pipeline="a")
    await store.cancel_run(api_key.id, first.id)
    second = await accept(store, api_key, pipeline="b")
    third = await accept(store, api_key, pipeline="a")

    async def ids(**filters: object) -> list[object]:
        page = await store.list_runs(api_key.id, **filters)  # type: ignore[arg-type]  # any filter
        return [run.id for run in page.items]

    assert await ids(state=RunState.QUEUED) == [third.id, second.id]
    assert await ids(pipeline="a") == [third.id, first.id]
    assert await ids(pipeline="a", state=RunState.CANCELLED) == [first.id]
    assert await ids(state=RunState.FAILED) == []


@pytest.mark.parametrize("cursor", ["", "x", "💥", "AAAA"])
async def test_a_malformed_cursor_is_refused(store: RunStore, cursor: str) -> None:
    """A cursor that we did not give is the caller's mistake."""
    with pytest.raises(MalformedCursorError):
        await store.list_runs(uuid7(), cursor=cursor)
    with pytest.raises(MalformedCursorError):
        await store.list_emails(uuid7(), cursor=cursor)


async def write_email(store: RunStore, api_key: ApiKey, kind: str, **metadata: str) -> NewEmail:
    """Have a run finish with an email."""
    await accept(store, api_key)
    email = NewEmail(uuid7(), kind, "subject", "body", metadata)
    await store.finish_run(await claim(store), {}, email)
    return email


async def test_emails_are_filtered_and_paged(store: RunStore, api_key: ApiKey) -> None:
    """By kind, by run, by what their metadata contains; newest first."""
    book = await write_email(store, api_key, "book", campaign="x", lang="en")
    general = await write_email(store, api_key, "general", campaign="x")
    research = await write_email(store, api_key, "research", campaign="y")

    async def ids(**filters: object) -> list[object]:
        page = await store.list_emails(api_key.id, **filters)  # type: ignore[arg-type]  # any filter
        return [email.id for email in page.items]

    stored: Email = await store.get_email(api_key.id, book.id)
    assert await ids() == [research.id, general.id, book.id]
    assert await ids(template_type="general") == [general.id]
    assert await ids(run_id=stored.run_id) == [book.id]
    assert await ids(metadata={"campaign": "x"}) == [general.id, book.id]
    assert await ids(metadata={"campaign": "x", "lang": "en"}) == [book.id]
    page = await store.list_emails(api_key.id, limit=2)
    assert await ids(cursor=page.next_cursor) == [book.id]


async def test_events_of_several_runs_come_after_their_own_seq(
    store: RunStore, api_key: ApiKey
) -> None:
    """One query serves many watchers, each from where it was."""
    first, second = await accept(store, api_key), await accept(store, api_key)
    await store.claim_due_runs(owner="w1", limit=2, shapes=SHAPES)

    events = await store.list_events({first.id: 0, second.id: 1})

    assert [(event.run_id, event.seq) for event in events] == [
        (first.id, 1),
        (first.id, 2),
        (first.id, 3),
        (second.id, 2),
        (second.id, 3),
    ]
    assert len(await store.list_events({first.id: 0, second.id: 0}, limit=3)) == 3
    assert await store.list_events({}) == []


async def test_a_key_is_found_added_once_and_revoked(store: RunStore, api_key: ApiKey) -> None:
    """Adding it again changes nothing; its prefix is taken; revoking it stays."""
    again = await store.add_key(name="x", prefix=api_key.prefix, key_hash=api_key.key_hash)

    assert again == api_key == await store.find_key(api_key.prefix)
    with pytest.raises(KeyPrefixTakenError):
        await store.add_key(name="x", prefix=api_key.prefix, key_hash=b"other")
    assert await store.revoke_key(api_key.prefix)
    assert not await store.revoke_key(api_key.prefix)
    revoked = await store.find_key(api_key.prefix)
    assert revoked is not None
    assert revoked.is_revoked
    assert await store.find_key("f" * 12) is None


async def test_heartbeats_tell_each_process_and_its_age(store: RunStore) -> None:
    """The latest sign of life of each process counts."""
    await store.record_heartbeat(process="w1", kind="worker")
    await asyncio.sleep(0.05)
    await store.record_heartbeat(process="b1", kind="beat")
    await store.record_heartbeat(process="w1", kind="worker")

    found = await store.list_heartbeats()

    assert [(beat.process, beat.kind) for beat in found] == [("b1", "beat"), ("w1", "worker")]
    assert 0 <= found[1].age_s <= found[0].age_s < 5


async def test_totals_add_up(store: RunStore, api_key: ApiKey) -> None:
    """Counts by state and reason, queue age, and per step what was done and paid."""
    for _ in range(2):
        await accept(store, api_key)
        lease = await claim(store)
        await pay(store, lease, "parse")
        await store.record_checkpoint(lease, Checkpoint("parse", {}))
    failure = Failure(FailureReason.PERMANENT, "research", "no", 1)
    await store.start_step(lease, "research")
    await store.fail_run(lease, failure)
    await accept(store, api_key)

    totals, same = await asyncio.gather(store.get_totals(), store.get_totals())

    parse, research, compose = totals.steps
    assert totals is same
    assert totals.runs_by_state == {
        RunState.QUEUED: 1,
        RunState.RUNNING: 1,
        RunState.SUCCEEDED: 0,
        RunState.FAILED: 1,
        RunState.CANCELLED: 0,
    }
    assert totals.failures_by_reason[FailureReason.PERMANENT] == 1
    assert sum(totals.failures_by_reason.values()) == 1
    assert totals.due_runs == 1
    assert 0 <= totals.oldest_due_age_s < 60
    assert (parse.step, parse.succeeded, parse.failures) == ("parse", 2, 0)
    assert (parse.usage, parse.cost_usd) == (USAGE + USAGE, 2 * COST)
    assert parse.durations[300.0] == 2
    assert list(parse.durations.values()) == sorted(parse.durations.values())
    assert (research.succeeded, research.failures) == (0, 1)
    assert (compose.succeeded, compose.duration_s) == (0, 0)


async def test_a_long_count_holds_nobody_up(
    open_store: StoreFactory, api_key: ApiKey, fresh_database: PostgresSettings
) -> None:
    """While a new count takes long, the one before is shown; then the new one."""
    store = open_store(timeout_s=30)
    await accept(store, api_key)
    engine = create_engine(fresh_database)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vitals, "TOTALS_MAX_AGE_S", 0.0)
        patch.setattr(vitals, "COUNTING_SHARE", math.inf)
        before = await store.get_totals()
        await accept(store, api_key)
        async with engine.begin() as connection:
            await connection.execute(text("LOCK TABLE runs IN ACCESS EXCLUSIVE MODE"))
            meanwhile = await store.get_totals()
    later = await store.get_totals()
    await engine.dispose()

    assert meanwhile is before
    assert 2 == later.runs_by_state[RunState.QUEUED]


async def test_totals_of_an_empty_record(store: RunStore) -> None:
    """A fresh installation has numbers too."""
    totals = await store.get_totals()

    assert set(totals.runs_by_state) == set(RunState)
    assert set(totals.runs_by_state.values()) == {0}
    assert (totals.due_runs, totals.oldest_due_age_s, totals.steps) == (0, 0, ())


async def test_ping_measures_a_round_trip(store: RunStore) -> None:
    """Readiness can say how far away the record is."""
    assert 0 < await store.ping() < 5
