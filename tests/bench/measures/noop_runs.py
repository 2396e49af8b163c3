"""Durable runs of one step that does nothing: how many a second one worker takes from claimed to finished."""

import asyncio
from collections.abc import Mapping
from typing import Any

import asyncpg
import httpx

from config.postgres import PostgresSettings
from tests.bench.benchmark import Benchmark, Goal, median_of
from tests.bench.server_cpu import postgres_process
from tests.bench.stack import Stack, running_stack

NOBODY = {"ANTHROPIC_SIMULATOR_URL": "http://127.0.0.1:9"}
"""Claude is not asked."""
RUNS = 20_000
ROWS_PER_BATCH = 5_000
SLOTS = 1000
LONGEST_S = 120.0
LOOK_INTERVAL_S = 0.5
"""Each look counts all runs: ten a second would take an eighth of a core, and count as PostgreSQL's."""
ROW = {"text": "x" * 140}

SUCCEEDED = "SELECT count(*) FROM runs WHERE state = 'succeeded'"
TIMES = "SELECT extract(epoch FROM max(finished_at) - min(started_at))::float FROM runs"
EVENTS = "SELECT count(*) FROM events"


def drain() -> Mapping[str, float]:
    """Queue the runs; then start a worker and wait until the last one has succeeded."""
    with running_stack(API_MAX_QUEUED_RUNS="1000000", **NOBODY) as stack:
        with stack.api(POSTGRES_STATEMENT_TIMEOUT_S="30") as (url, _):
            _post(url, stack.key)
        return asyncio.run(_drain(stack))


def _post(url: str, key: str) -> None:
    """Queue all runs, in batches."""
    with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=60) as http:
        for begin in range(0, RUNS, ROWS_PER_BATCH):
            rows = [{"number": begin + row, **ROW} for row in range(ROWS_PER_BATCH)]
            body = {"pipeline": "bench_noop", "inputs": rows}
            answer = http.post("/v1/batches", json=body)
            assert answer.is_success, answer.text
            assert answer.json()["accepted"] == ROWS_PER_BATCH, answer.text


async def _drain(stack: Stack) -> Mapping[str, float]:
    """What a worker takes for the runs that are queued."""
    server = postgres_process(stack.postgres)
    connection = await _connect(stack.postgres)
    try:
        await connection.execute("VACUUM ANALYZE")
        with stack.worker(slots=SLOTS) as worker:
            await _until(connection, 1)
            before_s = worker.cpu_s, server.cpu_s
            done = await connection.fetchval(SUCCEEDED)
            await _until(connection, RUNS)
            cpu_s = worker.cpu_s - before_s[0], server.cpu_s - before_s[1]
            memory_mib = worker.pss_mib
        assert await connection.fetchval(EVENTS) == RUNS * 5
        seconds = await connection.fetchval(TIMES)
    finally:
        await connection.close()
    counted = RUNS - done
    return {
        "rate": RUNS / seconds,
        "worker_cpu": cpu_s[0] / counted * 1e6,
        "postgres_cpu": cpu_s[1] / counted * 1e6,
        "memory": memory_mib,
    }


async def _connect(settings: PostgresSettings) -> "asyncpg.Connection[Any]":
    assert settings.password is not None
    return await asyncpg.connect(
        host=settings.host,
        port=settings.port,
        user=settings.user,
        password=settings.password.get_secret_value(),
        database=settings.db,
    )


async def _until(connection: "asyncpg.Connection[Any]", number: int) -> None:
    """Wait until so many runs have succeeded."""
    async with asyncio.timeout(LONGEST_S):
        while await connection.fetchval(SUCCEEDED) < number:
            await asyncio.sleep(LOOK_INTERVAL_S)


BENCHMARK = Benchmark(
    name="noop_runs",
    title="Durable runs of one step that does nothing",
    what="20,000 runs with 180 B of input are committed; then one worker with 1,000 slots starts. The rate is that "
    "from the first claim to the last end, all events and checkpoints committed; PostgreSQL uses the same cores.",
    units={
        "rate": "runs/s",
        "worker_cpu": "µs/run",
        "postgres_cpu": "µs/run",
        "memory": "MiB",
    },
    subjects={"Penstock": drain},
    goals=(
        Goal(
            name="Durable one-step no-op runs in one worker",
            bound=4000,
            unit="runs/s",
            is_at_most=False,
            of=lambda rounds: median_of(rounds, "Penstock", "rate"),
        ),
    ),
)
