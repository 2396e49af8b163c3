"""Whether Claude's limits are used and kept: `python -m tests.bench.bench_limits`, about ten minutes.

A thousand runs of one call each, by real workers on real servers, against a simulator that enforces
limits. The time runs from the first call to the last answer; the ideal is what the simulator needs at
least: its buckets are full at the beginning and then fill at their rate. Exit status 1 if a scene
takes 1.15 times the ideal time or 1 % of its calls are answered 429.

    python -m tests.bench.bench_limits [--runs 1000] [--workers 1 2] [--limit requests]
"""

import argparse
import asyncio
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx

from config.postgres import PostgresSettings
from config.redis import RedisSettings
from services.core.pool import Pool
from services.core.runs.keys import generate_key, parse_key
from services.core.runs.models import NewRun
from services.core.runs.states import RunState
from services.core.runs.store import RunStore
from services.migrate.__main__ import prepare
from services.migrate.engine import create_engine
from services.pipelines.summarize_documents.pipeline import SUMMARIZE_DOCUMENTS
from tests.integration import servers
from tests.integration.worker.lab import as_environment

MAX_SLOWNESS = 1.15
MAX_LIMITED = 0.01
PLENTY = 10_000_000
LIMITS: dict[str, dict[str, int]] = {
    "requests": {"requests_per_min": 400},
    "input": {"requests_per_min": 4000, "input_tokens_per_min": 400_000},
    "output": {"requests_per_min": 4000, "output_tokens_per_min": 14_000},
}
"""Which limit is scarce: a call takes about 955 input tokens and 34 output tokens."""
TEXT = "The committee met at ten. The new penstock will cost 40,000 euros. " * 30


@dataclass(frozen=True)
class Servers:
    """What the workers work with."""

    postgres: PostgresSettings
    redis: RedisSettings
    simulator_url: str


def main() -> int:
    """Measure each scene, and print a line each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--limit", choices=LIMITS, nargs="+", default=list(LIMITS))
    options = parser.parse_args()
    is_good = True
    with ExitStack() as exits:
        embedded = not servers.uses_containers()
        postgres = servers.embedded_postgres if embedded else servers.postgres_container
        redis = servers.embedded_redis if embedded else servers.redis_container
        settings = exits.enter_context(postgres()), exits.enter_context(redis())
        simulator_url = exits.enter_context(run_simulator())
        for number, (limit, workers) in enumerate(
            (limit, workers) for limit in options.limit for workers in options.workers
        ):
            scene = Servers(*settings, simulator_url)
            is_good &= measure(scene, number, limit=limit, workers=workers, runs=options.runs)
    return int(not is_good)


def measure(scene: Servers, number: int, *, limit: str, workers: int, runs: int) -> bool:
    """Let so many workers execute the runs under that limit; whether it went well."""
    database = f"bench_limits_{number}"
    asyncio.run(create_database(scene.postgres, database))
    scene = Servers(
        scene.postgres.model_copy(update={"db": database}), scene.redis, scene.simulator_url
    )
    with httpx.Client(base_url=scene.simulator_url, timeout=30) as http:
        for path in ("/admin/limits", "/admin/requests"):
            http.delete(path).raise_for_status()
        http.put("/admin/limits", json=LIMITS[limit]).raise_for_status()
        states, events = asyncio.run(execute(scene, workers=workers, runs=runs))
        calls = http.get("/admin/requests").json()
    return report(f"{limit}, {workers} worker(s)", calls, states, LIMITS[limit], events)


def report(
    name: str,
    calls: list[dict[str, Any]],
    states: dict[RunState, int],
    limits: dict[str, int],
    parked: int,
) -> bool:
    """Print how it went; whether that was well."""
    answered = [call for call in calls if call["outcome"] == "answered"]
    limited = sum(call["status"] == 429 for call in calls)
    began = [datetime.fromisoformat(call["received_at"]).timestamp() for call in calls]
    ended = [
        datetime.fromisoformat(call["received_at"]).timestamp() + call["duration_ms"] / 1000
        for call in answered
    ]
    took_s, ideal_s = max(ended) - min(began), ideal(answered, limits)
    slowness, share = took_s / ideal_s, limited / len(calls)
    sys.stdout.write(
        f"{name}: {states[RunState.SUCCEEDED]} runs, {len(calls)} calls in {took_s:.1f} s, "
        f"ideal {ideal_s:.1f} s: {slowness:.3f}; {limited} answered 429 ({share:.2%}); "
        f"sent away {parked} times\n"
    )
    sys.stdout.flush()
    return slowness < MAX_SLOWNESS and share < MAX_LIMITED


def ideal(answered: list[dict[str, Any]], limits: dict[str, int]) -> float:
    """Seconds that the simulator needs for these calls at least."""
    totals = {
        "requests_per_min": len(answered),
        "input_tokens_per_min": sum(
            call["input_tokens"] + call["cache_creation_input_tokens"] for call in answered
        ),
        "output_tokens_per_min": sum(call["output_tokens"] for call in answered),
    }
    waits_s = [(totals[name] - limit) * 60 / limit for name, limit in limits.items()]
    return max(0.0, *waits_s) + sum(call["duration_ms"] for call in answered) / len(answered) / 1000


async def create_database(server: PostgresSettings, name: str) -> None:
    """Make a migrated database."""
    engine = create_engine(server)
    async with engine.connect() as connection:
        autocommit = await connection.execution_options(isolation_level="AUTOCOMMIT")
        await autocommit.exec_driver_sql(f"CREATE DATABASE {name}")
    await engine.dispose()
    await prepare(server.model_copy(update={"db": name}), None)


async def execute(scene: Servers, *, workers: int, runs: int) -> tuple[dict[RunState, int], int]:
    """Accept the runs, start the workers, and wait for the end; runs by state, and how many waits."""
    patient = scene.postgres.model_copy(update={"statement_timeout_s": 60})
    engine = create_engine(patient)
    store = RunStore(
        Pool(patient), lease_ttl_s=30, max_crashes=3, rehint_after_s=10, max_queued_runs=PLENTY
    )
    parsed = parse_key(generate_key())
    assert parsed is not None
    key = await store.add_key(name="bench", prefix=parsed[0], key_hash=parsed[1])
    new = [
        NewRun(
            key_id=key.id,
            pipeline=SUMMARIZE_DOCUMENTS.name,
            input=SUMMARIZE_DOCUMENTS.input_type.model_validate(
                {"documents": [{"title": f"Minutes {number}", "text": TEXT}]}
            ).model_dump(mode="json"),
            step_names=SUMMARIZE_DOCUMENTS.step_names,
        )
        for number in range(runs)
    ]
    await asyncio.gather(*(store.accept_run(each) for each in new))
    with ExitStack() as exits:
        for number in range(workers):
            exits.enter_context(run_worker(scene, f"bench{number}"))
        while True:
            await store.requeue_lapsed_runs()  # as beat does
            totals = await store.get_totals()
            states = totals.runs_by_state
            if not states[RunState.QUEUED] + states[RunState.RUNNING]:
                break
            await asyncio.sleep(1)
    async with engine.connect() as connection:
        waits = await connection.exec_driver_sql(
            "SELECT count(*) FROM events WHERE type = 'step.waiting'"
        )
        parked = waits.scalar_one()
    await engine.dispose()
    await store.close()
    return dict(states), parked


@contextmanager
def run_worker(scene: Servers, name: str) -> Iterator[None]:
    """A worker as in its container."""
    command = [sys.executable, "-m", "services.worker.watcher"]
    command += [sys.executable, "-m", "services.worker"]
    command += ["-P", "custom", "-Q", "runs", "-c", "200", "-n", f"{name}@bench"]
    command += ["--without-gossip", "--without-mingle"]
    settings = {
        **as_environment(scene.postgres, "POSTGRES_"),
        **as_environment(scene.redis, "REDIS_"),
        "ANTHROPIC_SIMULATOR_URL": scene.simulator_url,
        "CELERY_CUSTOM_WORKER_POOL": "services.worker.pool:TaskPool",
        "CELERY_SHUTDOWN_GRACE_S": "1",
    }
    with run_process(command, settings, name=name):
        yield


@contextmanager
def run_simulator() -> Iterator[str]:
    """A simulator whose answers take a second or two; its URL."""
    port = servers.free_port()
    command = [sys.executable, "-m", "uvicorn", "--factory", "services.simulator.app:create_app"]
    command += ["--port", str(port), "--log-level", "warning", "--no-access-log"]
    settings = {"SIMULATOR_LATENCY_MS": "1000", "SIMULATOR_CHUNK_DELAY_MS": "50"}
    url = f"http://127.0.0.1:{port}"
    with run_process(command, settings, name="simulator"):
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            try:
                httpx.get(f"{url}/admin/limits").raise_for_status()
            except httpx.HTTPError:
                time.sleep(0.1)
            else:
                break
        yield url


@contextmanager
def run_process(command: list[str], settings: dict[str, str], *, name: str) -> Iterator[None]:
    """A process that ends with the context; its output is in a file that is named if it fails."""
    path = Path(tempfile.mkdtemp(prefix="bench-limits-")) / f"{name}.log"
    inherited = {
        key: value
        for key, value in os.environ.items()  # noqa: TID251 - the process's environment
        if not key.startswith("ANTHROPIC_")
    }
    with path.open("ab") as log:
        process = subprocess.Popen(command, env=inherited | settings, stdout=log, stderr=log)
    try:
        yield
    finally:
        if process.poll() is not None:
            sys.stderr.write(f"{name} has ended: {path}\n")
        process.terminate()
        process.wait(60)


if __name__ == "__main__":
    sys.exit(main())
