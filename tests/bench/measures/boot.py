"""How soon a worker that was just started executes a run, and what memory it then needs."""

import time
from collections.abc import Mapping
from datetime import datetime
from tempfile import TemporaryDirectory
from typing import Any

import httpx

from services.core.clock import utc_now
from tests.bench.benchmark import Benchmark, Goal, Rounds, median_of
from tests.bench.stack import running_stack
from tests.fakes.otlp_collector import OtlpCollector

RUN_S = 60.0


def boot() -> Mapping[str, float]:
    """Start a worker beside a run that waits for it, with telemetry on and a call to Claude to make.

    Its bytecode is compiled, as it is in the image: by a worker before it.
    """
    with (
        TemporaryDirectory() as bytecode,
        OtlpCollector().running() as collector,
        running_stack(
            OTEL_EXPORTER_OTLP_ENDPOINT=collector.url,
            PYTHONDONTWRITEBYTECODE="",
            PYTHONPYCACHEPREFIX=bytecode,
        ) as stack,
        stack.simulator() as claude,
        stack.api(ANTHROPIC_SIMULATOR_URL=claude) as (url, _),
        httpx.Client(base_url=url, headers={"Authorization": f"Bearer {stack.key}"}) as client,
    ):
        run_url = post_run(client)
        with stack.worker(ANTHROPIC_SIMULATOR_URL=claude):
            ended_run(client, run_url)
        run_url = post_run(client)
        began_s = utc_now().timestamp()
        with stack.worker(ANTHROPIC_SIMULATOR_URL=claude) as worker:
            run = ended_run(client, run_url)
            started_at = datetime.fromisoformat(run["steps"][0]["started_at"])
            return {
                "first step": started_at.timestamp() - began_s,
                "CPU": worker.cpu_s,
                "memory": worker.pss_mib,
            }


def post_run(client: httpx.Client) -> str:
    """Accept a run with one call; where it is."""
    body = {"pipeline": "bench_one_call", "input": {"number": 1, "text": "first"}}
    answer = client.post("/v1/runs", json=body)
    answer.raise_for_status()
    return f"/v1/runs/{answer.json()['id']}"


def ended_run(client: httpx.Client, url: str) -> Any:
    """The run, once it has ended well."""
    deadline = time.monotonic() + RUN_S
    while (run := client.get(url).json())["state"] in ("queued", "running"):
        assert time.monotonic() < deadline, run
        time.sleep(0.05)
    assert run["state"] == "succeeded", run
    return run


def first_step_s(rounds: Rounds) -> float:
    """Seconds to the first step."""
    return median_of(rounds, "Penstock", "first step")


def memory_mib(rounds: Rounds) -> float:
    """Memory of a worker that has nothing to do."""
    return median_of(rounds, "Penstock", "memory")


BENCHMARK = Benchmark(
    name="boot",
    title="Start of a worker",
    what="A worker process starts while a run with one call to Claude waits for it, with telemetry on: the time from"
    " the command until the run's first step has started, the CPU time of the worker until the run has ended, and its"
    " memory (PSS) then.",
    units={"first step": "s", "CPU": "s", "memory": "MiB"},
    subjects={"Penstock": boot},
    goals=(
        Goal(
            name="Worker boot to first run",
            bound=1.5,
            unit="s",
            is_at_most=True,
            of=first_step_s,
        ),
        Goal(
            name="Base memory of a worker, SDK and telemetry loaded",
            bound=140,
            unit="MiB",
            is_at_most=True,
            of=memory_mib,
        ),
    ),
)
