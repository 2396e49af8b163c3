"""A thousand calls to Claude at once in one worker process, each a second long and each in a durable run."""

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from math import nan
from typing import Any

import httpx

from tests.bench.benchmark import Benchmark, Goal, Rounds, median_of
from tests.bench.peers import arq, taskiq
from tests.bench.server_cpu import postgres_process
from tests.bench.stack import Process, running_stack

CALLS = 1000
LATENCY_MS = 1000
# What Claude's headers say of an account that may do this; else a worker finds the limits out, call by call.
LIMITS = {
    "SIMULATOR_REQUESTS_PER_MIN": "1000000",
    "SIMULATOR_INPUT_TOKENS_PER_MIN": "1000000000",
    "SIMULATOR_OUTPUT_TOKENS_PER_MIN": "1000000000",
}
LONGEST_S = 120.0
POLL_INTERVAL_S = 0.05
LOOK_INTERVAL_S = 0.2
PEERS = ("arq", "taskiq")


def hold() -> Mapping[str, float]:
    """Post the runs in one batch, and wait for all results; after one that does not count."""
    latency = {"SIMULATOR_LATENCY_MS": str(LATENCY_MS)}
    with running_stack() as stack, stack.simulator(**latency, **LIMITS) as claude:
        env = {"ANTHROPIC_SIMULATOR_URL": claude}
        headers = {"Authorization": f"Bearer {stack.key}"}
        with (
            stack.api(**env) as (url, _),
            stack.worker(slots=CALLS, **env) as worker,
            httpx.Client(base_url=url, headers=headers, timeout=60) as http,
        ):
            _execute(http, 1)
            server = postgres_process(stack.postgres)
            base_mib, before_s = worker.pss_mib, (worker.cpu_s, server.cpu_s)
            with watching(worker) as seen_mib:
                wall_s = _execute(http, CALLS)
            cpu_s = worker.cpu_s - before_s[0], server.cpu_s - before_s[1]
    return {
        "wall_s": wall_s,
        "base_mib": base_mib,
        "per_run_mib": (max(seen_mib) - base_mib) / CALLS,
        "cpu_ms": cpu_s[0] / CALLS * 1000,
        "postgres_cpu_ms": cpu_s[1] / CALLS * 1000,
    }


def _execute(http: httpx.Client, runs: int) -> float:
    """Seconds from the POST until all runs have succeeded."""
    began_s = time.monotonic()
    inputs = [{"number": number, "text": "x" * 140} for number in range(runs)]
    body = {"pipeline": "bench_one_call", "inputs": inputs}
    batch = _answer(http.post("/v1/batches", json=body))
    while _answer(http.get(f"/v1/batches/{batch['id']}"))["counts"]["succeeded"] < runs:
        assert time.monotonic() < began_s + LONGEST_S
        time.sleep(POLL_INTERVAL_S)
    return time.monotonic() - began_s


def _answer(response: httpx.Response) -> dict[str, Any]:
    assert response.is_success, response.text
    answer: dict[str, Any] = response.json()
    return answer


@contextmanager
def watching(process: Process) -> Iterator[list[float]]:
    """Look at a process's memory again and again."""
    seen_mib = [process.pss_mib]
    is_over = threading.Event()

    def look() -> None:
        while not is_over.wait(LOOK_INTERVAL_S):
            seen_mib.append(process.pss_mib)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield seen_mib
    finally:
        is_over.set()
        thread.join()


def _to_best_peer(rounds: Rounds) -> float:
    """Penstock's time by that of the quickest peer; NaN, and so missed, if none was measured."""
    peers = [median_of(rounds, peer, "wall_s") for peer in PEERS if rounds.get(peer)]
    return median_of(rounds, "Penstock", "wall_s") / min(peers) if peers else nan


BENCHMARK = Benchmark(
    name="held_calls",
    title="A thousand one-second calls to Claude at once",
    what="One worker process executes 1,000 runs, each with one call that takes a second. The time is that "
    "from the first POST to the last result; memory is PSS, beyond what the worker has after one run.",
    units={
        "wall_s": "s",
        "base_mib": "MiB",
        "per_run_mib": "MiB/run",
        "cpu_ms": "ms/run",
        "postgres_cpu_ms": "ms/run",
    },
    subjects={"Penstock": hold, "arq": arq.hold_calls, "taskiq": taskiq.hold_calls},
    goals=(
        Goal(
            name="1,000 held calls, by the time of the best of arq and taskiq",
            bound=1.1,
            unit="×",
            is_at_most=True,
            of=_to_best_peer,
        ),
        Goal(
            name="Memory per held run",
            bound=0.06,
            unit="MiB",
            is_at_most=True,
            of=lambda rounds: median_of(rounds, "Penstock", "per_run_mib"),
        ),
        Goal(
            name="Memory of a worker that holds none",
            bound=140,
            unit="MiB",
            is_at_most=True,
            of=lambda rounds: median_of(rounds, "Penstock", "base_mib"),
        ),
    ),
)
