"""What Redis holds while many runs are queued."""

import time
from collections.abc import Mapping
from uuid import uuid4

import httpx
import redis

from tests.bench.benchmark import Benchmark, Goal, median_of
from tests.bench.stack import running_stack

BATCHES = 10
ROWS = 10_000
SWEEPING_S = 12.0
"""Some sweeps, each of which hints what is due."""
POST_TIMEOUT_S = 60
TRIES = 5
MIB = 2**20
SETTINGS = {
    "API_MAX_QUEUED_RUNS": str(2 * BATCHES * ROWS),
    "ANTHROPIC_SIMULATOR_URL": "http://127.0.0.1:9",  # nobody asks it
}


def queue_many() -> Mapping[str, float]:
    """Post runs that no worker takes; Redis' memory over that of an idle API, at points on the way."""
    with (
        running_stack(**SETTINGS) as stack,
        stack.api() as (url, _),
        redis.Redis.from_url(stack.redis.url(0)) as server,
        httpx.Client(
            base_url=url, headers={"Authorization": f"Bearer {stack.key}"}, timeout=POST_TIMEOUT_S
        ) as http,
    ):

        def used_mib() -> float:
            return float(server.info("memory")["used_memory"]) / MIB

        idle_mib = used_mib()
        peaks_mib: list[float] = []
        for _ in range(BATCHES):
            _post(http)
            peaks_mib.append(used_mib() - idle_mib)
        queued_mib = peaks_mib[-1]
        until_s = time.monotonic() + SWEEPING_S
        while time.monotonic() < until_s:
            time.sleep(0.5)
            peaks_mib.append(used_mib() - idle_mib)
        return {
            "half queued": peaks_mib[BATCHES // 2 - 1],
            "all queued": queued_mib,
            "peak": max(peaks_mib),
            "in the end": peaks_mib[-1],
        }


def _post(http: httpx.Client) -> None:
    """Post a batch; once more if PostgreSQL was too slow for it, on a busy machine."""
    inputs = [{"number": number, "text": "x" * 150} for number in range(ROWS)]
    body = {"pipeline": "bench_noop", "inputs": inputs}
    headers = {"Idempotency-Key": str(uuid4())}
    for _ in range(TRIES):
        answer = http.post("/v1/batches", json=body, headers=headers)
        if answer.status_code != httpx.codes.SERVICE_UNAVAILABLE:
            break
        time.sleep(1)
    assert answer.is_success, answer.text
    assert answer.json()["accepted"] == ROWS


BENCHMARK = Benchmark(
    name="redis_memory",
    title="Redis' memory under a backlog",
    what=f"{BATCHES * ROWS:,} runs are posted while no worker is there, and swept for {SWEEPING_S:g} s. Redis holds "
    "hints, whose number is bounded; the runs are in PostgreSQL.",
    units=dict.fromkeys(("half queued", "all queued", "peak", "in the end"), "MiB"),
    subjects={"Penstock": queue_many},
    goals=(
        Goal(
            name=f"Redis memory with {BATCHES * ROWS:,} runs queued",
            bound=10,
            unit="MB",
            is_at_most=True,
            of=lambda rounds: median_of(rounds, "Penstock", "peak") * MIB / 1e6,
        ),
        Goal(
            name="Redis memory, growth from 50,000 to 100,000 runs queued and swept",
            bound=1,
            unit="MB",
            is_at_most=True,
            of=lambda rounds: (
                (
                    median_of(rounds, "Penstock", "in the end")
                    - median_of(rounds, "Penstock", "half queued")
                )
                * MIB
                / 1e6
            ),
        ),
    ),
    rounds=1,
)
