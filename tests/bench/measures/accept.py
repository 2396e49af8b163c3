"""POST /v1/runs: how many are committed per second, beside an app that does nothing on the same server."""

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from tests.bench.benchmark import Benchmark, Goal, Rounds, median_of
from tests.bench.stack import ROOT, Process, Stack, running_stack

CONNECTIONS = 64
SECONDS = 10
PROCESSES = "2"
SETTINGS = {
    "API_MAX_QUEUED_RUNS": "10000000",
    "API_WORKERS": PROCESSES,
    # Runs are accepted only where somebody could execute them; here nobody does.
    "ANTHROPIC_SIMULATOR_URL": "http://127.0.0.1:9",
}
BODY = json.dumps(
    {
        "pipeline": "bench_noop",
        "input": {"number": 1742, "text": "x" * 91},
        "metadata": {"campaign": "spring", "order": "1742"},
    }
).encode()


def penstock() -> Mapping[str, float]:
    """Each answer comes after the commit."""
    with running_stack(**SETTINGS) as stack, stack.api() as (url, process):
        return load(url, stack.key, process)


def noop() -> Mapping[str, float]:
    """The same gunicorn, the same kind and number of processes, one model, nothing behind it."""
    with running_stack(API_WORKERS=PROCESSES) as stack, noop_api(stack) as (url, process):
        return load(url, stack.key, process)


@contextmanager
def noop_api(stack: Stack) -> Iterator[tuple[str, Process]]:
    """The app that does nothing, served as Penstock's is."""
    with stack.serve("noop", "tests.bench.noop_app:create_app()") as served:
        yield served


def load(
    url: str, key: str, process: Process, *, connections: int = CONNECTIONS
) -> Mapping[str, float]:
    """Post for some seconds; all answers must be 202."""
    before_s = process.cpu_s
    told = post(f"{url}/v1/runs", key, connections=connections)
    assert told["statuses"] == {"202": told["posts"]}, told
    return {
        "posts_per_s": told["per_s"],
        "p50_ms": told["p50_ms"],
        "p99_ms": told["p99_ms"],
        # Those before the clock ran as well, at about the same rate.
        "api_cpu_ms": (process.cpu_s - before_s) * 1000 / (told["per_s"] * (SECONDS + 1)),
    }


def post(url: str, key: str, *, connections: int) -> dict[str, Any]:
    """What the load's process tells."""
    options = (f"--connections={connections}", f"--seconds={SECONDS}")
    told = subprocess.run(
        [sys.executable, "-m", "tests.bench.load", url, key, *options],
        cwd=ROOT,
        input=BODY,
        stdout=subprocess.PIPE,
        check=True,
        timeout=SECONDS + 60,
    )
    return dict(json.loads(told.stdout))


def _ratio(rounds: Rounds) -> float:
    ours, bare = (median_of(rounds, name, "posts_per_s") for name in ("Penstock", "FastAPI no-op"))
    return ours / bare


BENCHMARK = Benchmark(
    name="accept",
    title="Accepting runs",
    what=(
        f"{CONNECTIONS} connections POST a run of {len(BODY)} bytes each, again and again, to two API processes; each "
        "answer comes after the run is committed. Beside it a FastAPI app on the same server that only reads and "
        "writes the model. The load comes from a third process on the same machine, and PostgreSQL is there as well."
    ),
    units={"posts_per_s": "1/s", "p50_ms": "ms", "p99_ms": "ms", "api_cpu_ms": "ms"},
    subjects={"Penstock": penstock, "FastAPI no-op": noop},
    goals=(
        Goal(
            name="POST /v1/runs, committed per second, to a no-op POST",
            bound=0.5,
            unit="×",
            is_at_most=False,
            of=_ratio,
        ),
        Goal(
            name="POST /v1/runs, p99 of 64 connections",
            bound=100,
            unit="ms",
            is_at_most=True,
            of=lambda rounds: median_of(rounds, "Penstock", "p99_ms"),
        ),
    ),
)
