"""POST to the first step's start, and to the run's end, where nothing else is to do."""

import time
from collections.abc import Iterator, Mapping
from datetime import datetime
from statistics import quantiles
from typing import Any

import httpx

from services.core.clock import utc_now
from tests.bench.benchmark import Benchmark, Goal, Rounds, median_of
from tests.bench.stack import running_stack

RUNS = 200
PAUSE_S = 0.05
"""Between an end and the next POST: each run meets an idle system."""
END_S = 10.0
SETTINGS = {"ANTHROPIC_SIMULATOR_URL": "http://127.0.0.1:9"}
BODY = {"pipeline": "bench_noop", "input": {"number": 1742, "text": "x" * 91}}


def penstock() -> Mapping[str, float]:
    """One API, one worker, one client on one connection."""
    with running_stack(**SETTINGS) as stack, stack.api() as (url, _), stack.worker():
        headers = {"Authorization": f"Bearer {stack.key}"}
        with httpx.Client(base_url=url, headers=headers, timeout=END_S) as http:
            for _ in range(10):  # connections, statements and caches
                list(watch(http))
            times = [dict(watch(http)) for _ in range(RUNS)]
    return {
        name: value
        for what in ("posted", "started", "ended")
        for name, value in _percentiles(what, [one[what] for one in times]).items()
    }


def watch(http: httpx.Client) -> Iterator[tuple[str, float]]:
    """Post a run; milliseconds from then to what became of it, by the same machine's clock."""
    began_s = utc_now().timestamp()
    answer = http.post("/v1/runs", json=BODY)
    yield "posted", (utc_now().timestamp() - began_s) * 1000
    assert answer.status_code == 202, answer.text
    run = _ended(http, answer.json()["id"])
    yield "started", (_epoch_s(run["steps"][0]["started_at"]) - began_s) * 1000
    yield "ended", (_epoch_s(run["finished_at"]) - began_s) * 1000


def _ended(http: httpx.Client, run_id: str) -> dict[str, Any]:
    """The run once it has succeeded; asked for so seldom that the system stays idle."""
    until_s = time.monotonic() + END_S
    while time.monotonic() < until_s:
        time.sleep(PAUSE_S)
        run = dict(http.get(f"/v1/runs/{run_id}").json())
        if run["state"] == "succeeded":
            return run
    raise AssertionError(run)


def _epoch_s(moment: str) -> float:
    return datetime.fromisoformat(moment).timestamp()


def _percentiles(name: str, values: list[float]) -> dict[str, float]:
    percent = quantiles(values, n=100)
    return {f"{name}_p50_ms": percent[49], f"{name}_p99_ms": percent[98]}


def _started(percentile: str) -> Any:
    def of(rounds: Rounds) -> float:
        return median_of(rounds, "Penstock", f"started_{percentile}_ms")

    return of


BENCHMARK = Benchmark(
    name="latency",
    title="Latency when idle",
    what=(
        f"{RUNS} runs of one step that does nothing are posted one after the other, each after the one before has "
        "ended. Times from before the POST to its answer, to the start of the step, and to the end of the run, the "
        "latter two as the record says."
    ),
    units={
        f"{what}_{percentile}_ms": "ms"
        for what in ("posted", "started", "ended")
        for percentile in ("p50", "p99")
    },
    subjects={"Penstock": penstock},
    goals=tuple(
        Goal(
            name=f"POST to first step started, idle, {percentile}",
            bound=bound,
            unit="ms",
            is_at_most=True,
            of=_started(percentile),
        )
        for percentile, bound in (("p50", 6), ("p99", 25))
    ),
)
