"""A worker gets what it can execute, and no index is left unused for that."""

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import pytest
from sqlalchemy import text

from config.postgres import PostgresSettings
from services.core.db import Statement
from services.core.runs.claim_statements import CLAIM_DUE_RUNS, CLAIM_OPTIONS, NO_KEY
from services.core.runs.models import ApiKey, shape_of
from services.core.runs.reading import list_statement
from services.core.runs.states import RunState
from services.core.runs.store import RunStore
from services.core.runs.sweeps import REQUEUE_LAPSED_RUNS
from services.migrate.engine import create_engine
from tests.integration.conftest import StoreFactory
from tests.integration.core.runs.pieces import SHAPES, STEPS, accept, claim, run_sql

OLD, NEW = ("parse", "compose"), STEPS


async def test_a_worker_gets_the_shapes_that_it_knows(store: RunStore, api_key: ApiKey) -> None:
    """Two versions of a pipeline side by side: each run goes to a worker of its own version."""
    old = await accept(store, api_key, step_names=OLD)
    new = await accept(store, api_key, step_names=NEW)
    shapes = {steps: shape_of("outreach_email", steps) for steps in (OLD, NEW)}

    nothing = await store.claim_due_runs(owner="x", limit=10, shapes=["other:parse"])
    [of_new] = await store.claim_due_runs(owner="n", limit=10, shapes=[shapes[NEW]])
    [of_old] = await store.claim_due_runs(owner="o", limit=10, shapes=[shapes[OLD]])

    assert nothing == []
    assert (of_new.run_id, of_new.shape) == (new.id, shapes[NEW])
    assert (of_old.run_id, of_old.shape) == (old.id, shapes[OLD])


async def test_a_suspect_too_goes_to_who_knows_it(store: RunStore, api_key: ApiKey) -> None:
    """An isolated worker of another version leaves it where it is."""
    run = await accept(store, api_key)
    await claim(store)
    await store.bury_process("w1", culprit=run.id)

    assert await store.claim_isolated_run(run.id, owner="i", shapes=["x:y"]) is None
    assert await store.claim_isolated_run(run.id, owner="i", shapes=SHAPES)


async def test_a_run_of_unknown_shape_is_anybodys(
    store: RunStore, api_key: ApiKey, fresh_database: PostgresSettings
) -> None:
    """Who takes it and does not know its steps gives it back for others, for a while."""
    run = await accept(store, api_key)
    await run_sql(fresh_database, "UPDATE runs SET shape = NULL")
    [lease] = await store.claim_due_runs(owner="x", limit=1, shapes=["x:y"])

    await store.release_run(lease, delay_s=60)

    waiting = await store.get_run(api_key.id, run.id)
    assert lease.shape is None
    assert waiting.state is RunState.QUEUED
    assert waiting.next_at is not None
    assert waiting.started_at is not None
    assert 55 < (waiting.next_at - waiting.started_at).total_seconds() < 70
    assert (waiting.crashes, waiting.lapses) == (0, 0)
    assert await store.claim_due_runs(owner="x", limit=1, shapes=["x:y"]) == []
    assert await store.take_due_hints() == []


async def test_totals_tell_of_runs_that_nobody_can_execute(
    open_store: StoreFactory, api_key: ApiKey, fresh_database: PostgresSettings
) -> None:
    """Due for long, and no living process says that it knows their shape."""
    store = open_store()
    await accept(store, api_key)
    await accept(store, api_key, pipeline="a")
    unknown = await accept(store, api_key, pipeline="typo")
    await store.record_heartbeat(process="w1", kind="worker", shapes=SHAPES)
    await store.record_heartbeat(process="beat", kind="beat")

    async def count() -> int:
        """Ask a store that has counted nothing yet: counts are kept for a few seconds."""
        return (await open_store().get_totals()).unclaimable_runs

    assert await count() == 0  # due, but not for long
    await run_sql(fresh_database, "UPDATE runs SET next_at = next_at - interval '11 s'")
    assert await count() == 1
    await store.cancel_run(api_key.id, unknown.id)
    assert await count() == 0
    await run_sql(fresh_database, "UPDATE heartbeats SET at = at - interval '31 s'")
    assert await count() == 2  # the only worker is silent


async def explain(
    database: PostgresSettings,
    statement: Statement,
    parameters: dict[str, Any],
    *,
    settings: Mapping[str, str] = MappingProxyType({}),
    options: str = "VERBOSE FALSE",
) -> str:
    """PostgreSQL's plan of a statement on a connection with settings."""
    engine = create_engine(database)
    async with engine.connect() as connection:
        for name, value in settings.items():
            await connection.execute(text(f"SET {name} = {value}"))
        # Nothing is committed.
        rows = await connection.execute(text(f"EXPLAIN ({options}) {statement.text}"), parameters)
        plan = "\n".join(rows.scalars())
    await engine.dispose()
    return plan


FILL = """
    INSERT INTO runs (id, key_id, pipeline, state, input, metadata, priority, shape, next_at)
    SELECT gen_random_uuid(), api_keys.id, 'p', 'queued', '{}', '{}', n % 3,
           CASE WHEN n % 5 > 0 THEN 'p:' || n % 5 END, now() - make_interval(secs => n % 1000)
      FROM api_keys, generate_series(1, 100000) AS n
"""


@pytest.fixture
async def deep_queue(fresh_database: PostgresSettings, api_key: ApiKey) -> PostgresSettings:
    """A database with 100,000 due runs of five shapes, some of them unknown."""
    assert api_key
    await run_sql(fresh_database, FILL, "ANALYZE runs")
    return fresh_database


async def test_a_deep_queue_is_read_by_its_indexes(deep_queue: PostgresSettings) -> None:
    """Deadlines go along their index, without sorting or reading it all."""
    sweeping = {"up_to": 500, "max_crashes": 3, "ttl_s": 30, "gap_s": 15}
    plan = await explain(deep_queue, REQUEUE_LAPSED_RUNS, sweeping)

    overdue = plan.partition("CTE overdue")[2].partition("CTE ")[0]
    assert "Index Scan using runs_deadlines" in overdue
    assert "Seq Scan on runs" not in plan


async def test_a_list_is_read_by_its_two_indexes(
    deep_queue: PostgresSettings, api_key: ApiKey
) -> None:
    """Those that run and all others: no more of each than is listed."""
    await run_sql(
        deep_queue,
        "INSERT INTO api_keys (id, prefix, name, key_hash) VALUES (gen_random_uuid(), 'o', 'k', '')",
        """
        UPDATE runs SET key_id = api_keys.id FROM api_keys
         WHERE prefix = 'o' AND next_at < now() - interval '20 s'
        """,
        "UPDATE runs SET state = 'running' WHERE priority = 0",
        "ANALYZE runs",
    )
    filters = dict.fromkeys(("pipeline", "reason", "before"))
    parameters = {"key_id": api_key.id, "up_to": 50, **filters}

    plan = await explain(
        deep_queue, list_statement(None, has_batch=False), parameters, options="ANALYZE"
    )

    scans = dict(re.findall(r"Backward using (\w+) on runs.*actual.*rows=(\d+)", plan))
    assert {"runs_owner", "runs_running"} == set(scans)
    assert all(int(rows) <= 50 for rows in scans.values())


CLAIMING = {
    "up_to": 100,
    "choose": 210,
    "look_at": 100,
    "after": NO_KEY,
    "max_running": "{}",
    "is_counted": False,
    "owner": "w",
    "ttl_s": 30,
    "run_timeout_s": 60,
}


@pytest.mark.parametrize("depth", ["empty", "deep"])
async def test_a_claim_jumps_from_key_to_key(
    fresh_database: PostgresSettings, api_key: ApiKey, depth: str
) -> None:
    """By its indexes, even if the table was still empty when the plan was made."""
    assert api_key
    if depth == "deep":
        await run_sql(fresh_database, FILL, "ANALYZE runs")
    parameters = {**CLAIMING, "shapes": ["p:1", "p:2"]}

    plan = await explain(fresh_database, CLAIM_DUE_RUNS, parameters, settings=CLAIM_OPTIONS)

    scans = [line.partition("->")[2].split() for line in plan.splitlines() if " on runs" in line]
    used = {scan[scan.index("using") + 1] for scan in scans if "using" in scan}
    assert "Seq Scan on runs" not in plan
    assert "Bitmap" not in plan
    assert {"runs_due_by_key", "runs_running", "runs_pkey"} == used


async def test_a_claim_reads_no_more_of_a_deep_queue(
    fresh_database: PostgresSettings, api_key: ApiKey
) -> None:
    """A hundred times the backlog, and as many pages to read: those of what it takes."""
    assert api_key
    pages = []
    for depth in ("1000", "100000"):
        await run_sql(
            fresh_database, "TRUNCATE runs CASCADE", FILL.replace("100000", depth), "ANALYZE runs"
        )
        parameters = {**CLAIMING, "shapes": ["p:1", "p:2"]}
        plan = await explain(
            fresh_database,
            CLAIM_DUE_RUNS,
            parameters,
            settings=CLAIM_OPTIONS,
            options="ANALYZE, BUFFERS",
        )
        pages += [int(count) for count in re.findall(r"Buffers: shared hit=(\d+)", plan)[:1]]

    assert pages[1] < 1.5 * pages[0]
