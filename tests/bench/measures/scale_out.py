"""More processes side by side: what they do together, and what they cost each other."""

import asyncio
import time
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack, ExitStack, suppress
from functools import partial
from statistics import mean, quantiles

import httpx

from services.core.db import Database
from services.core.errors import CallParkedError
from services.core.pool import Pool
from services.core.runs.call_limiter import CallLimiter
from tests.bench.benchmark import Benchmark, Goal, Rounds, median_of
from tests.bench.looking import CONNECTIONS, UNFINISHED, WAITING, Onlooker, looking_at
from tests.bench.posting import post_runs
from tests.bench.stack import Process, Stack, running_stack

PROCESSES = (1, 2, 4)
RUNS = 8_000
BATCH = 2_000
POSTING_S = 5.0
LIMITING_S = 3.0
CONNECTIONS_OF_CLIENT = 64
LOOK_INTERVAL_S = 0.1
DRAIN_TIMEOUT_S = 300.0

HOLD_BACK = """
    UPDATE runs SET next_at = now() + interval '1 hour', hint_at = now() + interval '1 hour'
"""
LET_GO = """
    UPDATE runs SET next_at = now()
"""


def measure(processes: int) -> Mapping[str, float]:
    """A round with so many API processes, and then so many workers."""
    many = {"API_WORKERS": str(processes), "API_MAX_QUEUED_RUNS": "1000000"}
    # Nothing calls Claude, but without a way to it no run is accepted.
    with (
        running_stack(ANTHROPIC_SIMULATOR_URL="http://127.0.0.1:1") as stack,
        looking_at(stack) as onlooker,
    ):
        with stack.api(**many) as (url, api):
            accepting = _accept(stack, url, api)
            _post_batches(stack, url)
        draining = _drain(stack, onlooker, workers=processes)
        return accepting | draining | asyncio.run(_limit(stack, limiters=processes))


def _accept(stack: Stack, url: str, api: Process) -> dict[str, float]:
    cpu_s = api.cpu_s
    posted = asyncio.run(
        post_runs(
            url,
            stack.key,
            pipeline="bench_noop",
            seconds=POSTING_S,
            connections=CONNECTIONS_OF_CLIENT,
        )
    )
    assert not posted.refused, posted.refused
    return {
        "accepted_per_s": posted.per_s,
        "accept_p99_ms": quantiles(posted.latencies_s, n=100)[98] * 1000,
        "api_cpu_ms": (api.cpu_s - cpu_s) * 1000 / len(posted.latencies_s),
    }


def _post_batches(stack: Stack, url: str) -> None:
    headers = {"Authorization": f"Bearer {stack.key}"}
    inputs = [{"number": number, "text": "x" * 150} for number in range(BATCH)]
    with httpx.Client(base_url=url, headers=headers, timeout=60) as http:
        for _ in range(RUNS // BATCH):
            body = {"pipeline": "bench_noop", "inputs": inputs}
            http.post("/v1/batches", json=body).raise_for_status()


def _drain(stack: Stack, onlooker: Onlooker, *, workers: int) -> dict[str, float]:
    """Have the workers execute all that is queued, from when they are all there."""
    onlooker.tell(HOLD_BACK)
    onlooker.tell("VACUUM ANALYZE runs")
    with ExitStack() as started:
        processes = [
            started.enter_context(
                stack.worker(name=f"worker-{number}", slots=1000, CELERY_POLL_INTERVAL_S="0.1")
            )
            for number in range(workers)
        ]
        runs = onlooker.ask(UNFINISHED)
        cpu_s, began_s = sum(process.cpu_s for process in processes), time.monotonic()
        onlooker.tell(LET_GO)
        waiting = _look_until_drained(onlooker)
        took_s = time.monotonic() - began_s
        return {
            "runs_per_s": runs / took_s,
            "worker_cpu_ms": (sum(p.cpu_s for p in processes) - cpu_s) * 1000 / runs,
            "waiting_for_locks": mean(waiting),
            "connections": onlooker.ask(CONNECTIONS),
            "redis_clients": float(onlooker.redis_info()["connected_clients"]),
        }


def _look_until_drained(onlooker: Onlooker) -> list[float]:
    """How many connections waited for a lock at each look."""
    give_up_s = time.monotonic() + DRAIN_TIMEOUT_S
    looks = []
    while onlooker.ask(UNFINISHED):
        assert time.monotonic() < give_up_s, "the workers do not get done"
        looks.append(onlooker.ask(WAITING))
        time.sleep(LOOK_INTERVAL_S)
    return looks or [0.0]


async def _limit(stack: Stack, *, limiters: int) -> dict[str, float]:
    """How many decisions a second one row bears, of limiters that each have connections of their own."""
    async with AsyncExitStack() as opened:
        desks = []
        for _ in range(limiters):
            database = Database(Pool(stack.postgres), timeout_s=5)
            opened.push_async_callback(database.close)
            desks.append(CallLimiter(database))
        alone = await _decide(desks, callers=1)
        gathered = await _decide(desks, callers=100)
        for desk in desks:
            await desk.drain()
    return {"limiter_transactions_per_s": alone, "limiter_decisions_per_s": gathered}


async def _decide(limiters: list[CallLimiter], *, callers: int) -> float:
    """Decisions a second for so many callers at once in each process."""
    ends_s = time.monotonic() + LIMITING_S
    decisions = 0

    async def call(limiter: CallLimiter) -> None:
        nonlocal decisions
        while time.monotonic() < ends_s:
            with suppress(CallParkedError):
                await limiter.admit("bench", input_tokens=100, output_tokens=100)
            decisions += 1

    async with asyncio.TaskGroup() as group:
        for limiter in limiters:
            for _ in range(callers):
                group.create_task(call(limiter))
    return decisions / LIMITING_S


def _subject(processes: int) -> str:
    return "Penstock" if processes == 1 else f"Penstock, {processes} processes"


def _ratio(processes: int, value: str) -> Callable[[Rounds], float]:
    def ratio(rounds: Rounds) -> float:
        alone = median_of(rounds, _subject(1), value)
        return median_of(rounds, _subject(processes), value) / alone

    return ratio


BENCHMARK = Benchmark(
    name="scale_out",
    title="Scaling out",
    what="1, 2 and 4 API processes take POSTs for 5 s over 64 connections; then as many worker processes execute "
    f"{RUNS:,} no-op runs and what was posted. All of it, PostgreSQL and the client share one machine, so the "
    "question is what processes cost each other: CPU per run must not grow.",
    units={
        "accepted_per_s": "POSTs/s",
        "accept_p99_ms": "ms",
        "api_cpu_ms": "ms/POST",
        "runs_per_s": "runs/s",
        "worker_cpu_ms": "ms/run",
        "waiting_for_locks": "connections",
        "connections": "of the workers",
        "redis_clients": "of the workers",
        "limiter_transactions_per_s": "a caller at a time in each process",
        "limiter_decisions_per_s": "100 callers in each process",
    },
    subjects={_subject(number): partial(measure, number) for number in PROCESSES},
    goals=(
        Goal(
            name="CPU per run of 4 workers, against 1",
            bound=1.25,
            unit="×",
            is_at_most=True,
            of=_ratio(4, "worker_cpu_ms"),
        ),
        Goal(
            name="Runs per second of 4 workers on the same cores, against 1",
            bound=0.9,
            unit="×",
            is_at_most=False,
            of=_ratio(4, "runs_per_s"),
        ),
    ),
)
