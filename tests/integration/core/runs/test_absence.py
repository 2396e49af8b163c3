"""PostgreSQL goes away: callers learn it soon, and everything goes on when it is back."""

import asyncio
import time
from collections.abc import AsyncIterator
from uuid import uuid4

import pytest
from sqlalchemy import text

from config.postgres import PostgresSettings
from services.core.errors import StoreFullError, StoreUnavailableError
from services.core.pool import Pool
from services.core.runs.models import ApiKey, Checkpoint, Failure, Lease
from services.core.runs.states import FailureReason
from services.core.runs.store import RunStore
from services.migrate.engine import create_engine
from tests.integration.conftest import StoreFactory
from tests.integration.core.runs.pieces import (
    SHAPES,
    STEPS,
    accept,
    claim,
    new_run,
    opening,
    run_sql,
    settle,
)
from tests.integration.proxy import TcpProxy


@pytest.fixture
async def proxy(fresh_database: PostgresSettings) -> AsyncIterator[TcpProxy]:
    """A proxy before the fresh database."""
    async with TcpProxy(fresh_database.host, fresh_database.port) as proxy:
        yield proxy


@pytest.fixture
async def far_store(proxy: TcpProxy, fresh_database: PostgresSettings) -> AsyncIterator[RunStore]:
    """A store that reaches the database through the proxy, with short limits."""
    settings = fresh_database.model_copy(
        update={
            "host": "127.0.0.1",
            "port": proxy.port,
            "pool_size": 3,
        }
    )
    store = RunStore(
        Pool(settings),
        lease_ttl_s=0.5,
        max_crashes=3,
        rehint_after_s=10,
        max_queued_runs=1000,
    )
    yield store
    proxy.thaw()
    await store.close()


async def every_method(store: RunStore, api_key: ApiKey, lease: Lease) -> list[object]:
    """Call everything at once; what came of it."""
    run_id = lease.run_id
    failure = Failure(FailureReason.PERMANENT, None, "x", 1)
    return await asyncio.gather(
        store.accept_run(new_run(api_key)),
        store.claim_due_runs(owner="w", limit=1, shapes=SHAPES),
        store.claim_isolated_run(run_id, owner="w", shapes=SHAPES),
        store.renew_leases([lease]),
        store.start_step(lease, "parse"),
        store.record_checkpoint(lease, Checkpoint("parse", {})),
        store.finish_run(lease, {}),
        store.retry_run(lease, step="parse", error="x", delay_s=0),
        store.park_run(lease, step="parse", wait_s=0, reason="budget"),
        store.open_call(lease, opening()),
        settle(store, lease, opening(), uuid4()),
        store.release_run(lease),
        store.fail_run(lease, failure),
        store.find_held([lease]),
        store.requeue_lapsed_runs(),
        store.bury_process("w", culprit=None),
        store.take_due_hints(),
        store.cancel_run(api_key.id, run_id),
        store.replay_run(api_key.id, run_id, step_names=STEPS, from_step=None, input=None),
        store.replay_failed_runs(api_key.id, shapes={"outreach_email": STEPS}),
        store.list_dead_letters(api_key.id),
        store.list_history(api_key.id, run_id),
        store.get_run(api_key.id, run_id),
        store.list_runs(api_key.id),
        store.list_events({run_id: 0}),
        store.get_email(api_key.id, run_id),
        store.list_emails(api_key.id),
        store.find_key(api_key.prefix),
        store.add_key(name="x", prefix="x", key_hash=b"x"),
        store.revoke_key("x"),
        store.ping(),
        store.record_heartbeat(process="w", kind="worker"),
        store.list_heartbeats(),
        store.get_totals(),
        store.list_call_limits(),
        return_exceptions=True,
    )


@pytest.mark.parametrize("absence", ["refused", "frozen"])
async def test_every_method_says_so_in_time(
    absence: str, far_store: RunStore, proxy: TcpProxy, api_key: ApiKey
) -> None:
    """A dead or frozen PostgreSQL is StoreUnavailableError within 6 s; later all is well."""
    await accept(far_store, api_key)
    lease = await claim(far_store)
    if absence == "refused":
        await proxy.refuse()
    else:
        proxy.freeze()
    began_s = time.monotonic()

    results = await every_method(far_store, api_key, lease)

    took_s = time.monotonic() - began_s
    assert [type(result) for result in results] == [StoreUnavailableError] * len(results)
    assert took_s < 6
    if absence == "refused":
        await proxy.accept()
    else:
        proxy.thaw()
    await asyncio.sleep(0.1)
    await far_store.ping()
    await accept(far_store, api_key)


async def test_a_restart_costs_no_error(
    far_store: RunStore, proxy: TcpProxy, api_key: ApiKey
) -> None:
    """Connections that were closed while idle are replaced before anybody uses them."""
    await asyncio.gather(*(far_store.list_runs(api_key.id) for _ in range(5)))
    await proxy.cut()

    pages = await asyncio.gather(*(far_store.list_runs(api_key.id) for _ in range(5)))

    assert len(pages) == 5


async def test_a_frozen_statement_holds_nobody_up_for_long(
    far_store: RunStore, proxy: TcpProxy, api_key: ApiKey
) -> None:
    """However many wait for a connection, each has its answer within the same bound."""
    await far_store.ping()
    proxy.freeze()
    began_s = time.monotonic()

    results = await asyncio.gather(
        *(accept(far_store, api_key) for _ in range(50)),
        *(far_store.get_totals() for _ in range(50)),
        *(far_store.list_runs(api_key.id) for _ in range(50)),
        return_exceptions=True,
    )

    assert all(isinstance(result, StoreUnavailableError) for result in results)
    assert time.monotonic() - began_s < 6


FILL_THE_DISK = """
    CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = '53100';
    END $$
"""


async def test_a_full_disk_is_said_and_nothing_is_half_done(
    store: RunStore, api_key: ApiKey, fresh_database: PostgresSettings
) -> None:
    """Each caller of a batch learns what is wrong; with room again, all goes on."""
    await accept(store, api_key)
    lease = await claim(store)
    await run_sql(
        fresh_database,
        FILL_THE_DISK,
        "CREATE TRIGGER full_disk BEFORE INSERT ON events EXECUTE FUNCTION refuse()",
    )

    results = await asyncio.gather(
        *(accept(store, api_key) for _ in range(5)),
        store.start_step(lease, "parse"),
        store.claim_due_runs(owner="w2", limit=1, shapes=SHAPES),
        return_exceptions=True,
    )

    assert {type(result) for result in results} == {StoreFullError}
    assert "disk is full" in str(results[0])
    assert [run.id for run in (await store.list_runs(api_key.id)).items] == [lease.run_id]
    await run_sql(fresh_database, "DROP TRIGGER full_disk ON events")
    assert await store.start_step(lease, "parse") == 2


async def test_counting_and_sweeping_have_more_patience(
    open_store: StoreFactory, api_key: ApiKey, fresh_database: PostgresSettings
) -> None:
    """What no client waits for may take longer than what one does."""
    store = open_store(timeout_s=0.5, lease_ttl_s=0.05)
    await accept(store, api_key)
    await claim(store)
    engine = create_engine(fresh_database)
    async with engine.begin() as connection:
        await connection.execute(text("LOCK TABLE runs IN ACCESS EXCLUSIVE MODE"))
        with pytest.raises(StoreUnavailableError):
            await store.list_runs(api_key.id)
        patient = asyncio.gather(
            store.get_totals(),
            store.requeue_lapsed_runs(),
            store.bury_process("w1", culprit=None),
        )
        await asyncio.sleep(0.8)
        assert not patient.done()
    totals, *taken_back = await patient
    await engine.dispose()

    assert sum(totals.runs_by_state.values()) == 1
    assert sum(taken_back) == 1


SWEPT_SECONDS_AGO = "UPDATE sweep_clock SET swept_at = now() - interval '{seconds} s'"


async def test_after_an_absence_holders_may_renew_first(
    open_store: StoreFactory, api_key: ApiKey, fresh_database: PostgresSettings
) -> None:
    """Sweeps were missing, so PostgreSQL was away: within one lease nothing is requeued, by whomever."""
    old, new = open_store(lease_ttl_s=0.5), open_store(lease_ttl_s=0.5)
    await accept(old, api_key)
    lease = await claim(old)
    await asyncio.sleep(0.6)
    await run_sql(fresh_database, SWEPT_SECONDS_AGO.format(seconds=3))

    assert await new.requeue_lapsed_runs() == 0
    assert await old.requeue_lapsed_runs() == 0
    assert await old.renew_leases([lease]) == {lease.run_id}
    await asyncio.sleep(0.6)
    assert await new.requeue_lapsed_runs() == 1


async def test_a_sweep_that_is_late_by_chance_is_no_absence(
    open_store: StoreFactory, api_key: ApiKey, fresh_database: PostgresSettings
) -> None:
    """A second without a sweep costs nothing."""
    store = open_store(lease_ttl_s=0.5)
    await accept(store, api_key)
    await claim(store)
    await asyncio.sleep(0.6)
    await run_sql(fresh_database, SWEPT_SECONDS_AGO.format(seconds=1))

    assert await store.requeue_lapsed_runs() == 1


async def test_a_sweep_sent_to_a_frozen_server_takes_nothing_when_that_goes_on(
    far_store: RunStore,
    store: RunStore,
    proxy: TcpProxy,
    api_key: ApiKey,
    fresh_database: PostgresSettings,
) -> None:
    """Its sender has given up, but the statement is executed: by then every lease has lapsed."""
    await accept(far_store, api_key)
    lease = await claim(far_store)
    await run_sql(fresh_database, SWEPT_SECONDS_AGO.format(seconds=0))
    proxy.freeze()
    with pytest.raises(StoreUnavailableError):
        await far_store.requeue_lapsed_runs()
    proxy.thaw()
    await asyncio.sleep(0.3)

    assert await store.renew_leases([lease]) == {lease.run_id}


async def test_a_wrong_password_is_an_absence(
    fresh_database: PostgresSettings, open_store: StoreFactory
) -> None:
    """A store that cannot log in is unavailable, whatever the reason."""
    settings = fresh_database.model_copy(update={"password": None})
    store = RunStore(
        Pool(settings), lease_ttl_s=1, max_crashes=3, rehint_after_s=1, max_queued_runs=1
    )

    with pytest.raises(StoreUnavailableError):
        await store.ping()

    await store.close()
