"""How fast a backlog of work that does nothing is executed."""

import asyncio
import json
import time
from collections.abc import Mapping
from functools import partial
from typing import Final

import asyncpg
import httpx

from config.postgres import PostgresSettings
from tests.bench.benchmark import Benchmark, Goal, Rounds, median_of
from tests.bench.peers import arq, celery, dbos, dramatiq, procrastinate, rq, taskiq
from tests.bench.peers.apps.work import arguments
from tests.bench.stack import Stack, running_stack

RUNS: Final = 20_000
BATCH: Final = 10_000
DRAIN_S: Final = 300.0
POLL_S: Final = 0.5
"""Each look counts all runs: ten a second would take an eighth of a core."""
SETTINGS: Final = {
    "API_MAX_QUEUED_RUNS": "10000000",
    # Nothing calls Claude, but runs are refused where it is not configured.
    "ANTHROPIC_SIMULATOR_URL": "http://127.0.0.1:9",
}

COUNT_ENDED: Final = "SELECT count(*) FROM runs WHERE state = 'succeeded'"
TIMES: Final = """
SELECT extract(epoch FROM max(finished_at) - min(started_at)) FROM runs WHERE state = 'succeeded'
"""


def penstock(*, runs: int = RUNS) -> Mapping[str, float]:
    """Post runs as batches, then start a worker and wait until each is finished in the record."""
    with running_stack(**SETTINGS) as stack:
        with stack.api() as (url, _):
            post(stack, url, runs=runs)
        with stack.worker(slots=1000) as worker:
            boot_cpu_s = worker.cpu_s
            seconds = asyncio.run(wait_until_ended(stack.postgres, runs=runs))
            cpu_s, pss_mib = worker.cpu_s - boot_cpu_s, worker.pss_mib
    return {"rate": runs / seconds, "cpu_ms": cpu_s / runs * 1000, "pss_mib": pss_mib}


def post(stack: Stack, url: str, *, runs: int) -> float:
    """Post runs as batches; seconds until all are durable."""
    bodies = [
        json.dumps(
            {
                "pipeline": "bench_noop",
                "inputs": [arguments(number) for number in range(begin, min(begin + BATCH, runs))],
            }
        ).encode()
        for begin in range(0, runs, BATCH)
    ]
    headers = {"Authorization": f"Bearer {stack.key}", "Content-Type": "application/json"}
    began_s = time.monotonic()
    for body in bodies:
        httpx.post(
            f"{url}/v1/batches", content=body, headers=headers, timeout=60
        ).raise_for_status()
    return time.monotonic() - began_s


async def wait_until_ended(settings: PostgresSettings, *, runs: int) -> float:
    """Wait for the last run; seconds from the first one's start to the last one's end."""
    password = settings.password
    connection = await asyncpg.connect(
        host=settings.host,
        port=settings.port,
        user=settings.user,
        password=password.get_secret_value() if password else None,
        database=settings.db,
    )
    try:
        async with asyncio.timeout(DRAIN_S):
            while await connection.fetchval(COUNT_ENDED) < runs:
                await asyncio.sleep(POLL_S)
        return float(await connection.fetchval(TIMES))
    finally:
        await connection.close()


def to_best(rounds: Rounds, *, peers: tuple[str, ...]) -> float:
    """Penstock's rate by that of the fastest of some peers."""
    best = max(median_of(rounds, peer, "rate") for peer in peers)
    return median_of(rounds, "Penstock", "rate") / best


FORGETFUL: Final = ("taskiq list", "taskiq stream", "dramatiq")
"""The fastest without durability; that they run is a condition of the goal."""

BENCHMARK = Benchmark(
    name="drain",
    title="Draining a backlog of no-ops",
    what=(
        "Tasks that do nothing, with 180 bytes of arguments, wait before the worker starts. Penstock: a pipeline of "
        "one step, each run claimed, checkpointed and finished in PostgreSQL, which waits for its disk; timed from "
        "the first run's start to the last one's end in the record. Peers: from the first task's start to the last "
        "one's. procrastinate and DBOS keep theirs in PostgreSQL, with the same settings; all others in a Redis that "
        "writes nothing to disk. Slow ones are given fewer tasks."
    ),
    units={"rate": "1/s", "cpu_ms": "ms", "pss_mib": "MiB"},
    subjects={
        "Penstock": penstock,
        "procrastinate": procrastinate.drain,
        "DBOS, queued": dbos.drain,
        "DBOS, direct": dbos.execute,
        "taskiq list": taskiq.drain,
        "taskiq stream": partial(taskiq.drain, "stream"),
        "dramatiq": dramatiq.drain,
        "arq": arq.drain,
        "Celery prefork": celery.drain_prefork,
        "Celery prefork, careful": celery.drain_careful,
        "Celery threads": celery.drain_threads,
        "Celery gevent": celery.drain_gevent,
        "rq": rq.drain,
    },
    goals=(
        Goal(
            name="Durable one-step runs per second, to the fastest peer without durability",
            bound=1,
            unit="×",
            is_at_most=False,
            of=partial(to_best, peers=FORGETFUL),
        ),
        Goal(
            name="Durable one-step runs per second, to procrastinate",
            bound=7,
            unit="×",
            is_at_most=False,
            of=partial(to_best, peers=("procrastinate",)),
        ),
        Goal(
            name="Durable one-step runs per second, to DBOS queued",
            bound=20,
            unit="×",
            is_at_most=False,
            of=partial(to_best, peers=("DBOS, queued",)),
        ),
    ),
)
