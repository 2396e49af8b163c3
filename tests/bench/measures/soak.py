"""Half of what it can bear, for long: nothing may grow but the record of what was done."""

import asyncio
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median, quantiles

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from tests.bench.benchmark import Benchmark, Goal, Rounds, median_of
from tests.bench.looking import CONNECTIONS, UNFINISHED, Onlooker, looking_at
from tests.bench.measures.held_calls import LIMITS
from tests.bench.posting import Posted, post_runs
from tests.bench.stack import Process, Stack, running_stack

CAPACITY_S = 10.0
CLIENT_CONNECTIONS = 32
SAMPLE_INTERVAL_S = 10.0
SETTLE_TIMEOUT_S = 300.0
LEAST_SAMPLES = 9

DEAD_SHARE = """
    SELECT coalesce(sum(n_dead_tup)::float / nullif(sum(n_live_tup + n_dead_tup), 0), 0)
      FROM pg_stat_user_tables
"""
BYTES_PER_RUN = """
    SELECT sum(pg_total_relation_size(relid))::float / greatest(1, (SELECT count(*) FROM runs))
      FROM pg_stat_user_tables
"""


class SoakSettings(BaseSettings):
    """How long it takes."""

    model_config = SettingsConfigDict(env_prefix="BENCH_SOAK_")

    minutes: float = Field(default=30, gt=0)


@dataclass(frozen=True, slots=True)
class Sample:
    """What there is at one moment."""

    pss_mib: Mapping[str, float]
    """By process."""
    connections: float
    dead_share: float
    """Of the rows of all tables."""
    bytes_per_run: float
    redis_mib: float
    unfinished: float
    """Runs that are queued or running."""


@dataclass(frozen=True, slots=True)
class Deployment:
    """All processes of a small deployment, with what looks at them."""

    stack: Stack
    url: str
    processes: Mapping[str, Process]
    onlooker: Onlooker

    def sample(self) -> Sample:
        """What there is now."""
        ask = self.onlooker.ask
        return Sample(
            pss_mib={name: process.pss_mib for name, process in self.processes.items()},
            connections=ask(CONNECTIONS),
            dead_share=ask(DEAD_SHARE),
            bytes_per_run=ask(BYTES_PER_RUN),
            redis_mib=self.onlooker.redis_info()["used_memory"] / 2**20,
            unfinished=ask(UNFINISHED),
        )

    async def post(self, *, seconds: float, per_s: float | None = None) -> Posted:
        """Post runs with one call each."""
        return await post_runs(
            self.url,
            self.stack.key,
            pipeline="bench_one_call",
            seconds=seconds,
            connections=CLIENT_CONNECTIONS,
            per_s=per_s,
        )

    def settle(self) -> float:
        """Wait until every run has ended; the seconds."""
        began_s = time.monotonic()
        while self.onlooker.ask(UNFINISHED):
            assert time.monotonic() < began_s + SETTLE_TIMEOUT_S, "runs do not end"
            time.sleep(0.1)
        return time.monotonic() - began_s


@contextmanager
def deployed() -> Iterator[Deployment]:
    """API, both kinds of worker, beat and the simulator."""
    with (
        running_stack(API_MAX_QUEUED_RUNS="1000000") as stack,
        stack.simulator(SIMULATOR_LATENCY_MS="1000", **LIMITS) as claude,
        looking_at(stack) as onlooker,
    ):
        claude_env = {"ANTHROPIC_SIMULATOR_URL": claude}
        isolated = ("services.worker", "--app=tests.bench.worker_app", "--pool=prefork")
        queues = ("--queues=isolated,default", "--concurrency=2", "--hostname=isolated@bench")
        beat = ("celery", "--app=services.beat.app", "beat", "--pidfile=")
        with (
            stack.api(**claude_env) as (url, api),
            stack.worker(slots=1000, **claude_env) as worker,
            stack.process("isolated", "ready.", *isolated, *queues, **claude_env) as child_worker,
            stack.process("beat", "is starting", *beat) as beat_process,
        ):
            processes = {
                "api": api,
                "worker": worker,
                "isolated": child_worker,
                "beat": beat_process,
            }
            yield Deployment(stack, url, processes, onlooker)


def soak() -> Mapping[str, float]:
    """Find out what it can bear, then give it half of that for the time."""
    seconds = SoakSettings().minutes * 60
    with deployed() as deployment:
        full = asyncio.run(deployment.post(seconds=CAPACITY_S))
        capacity_per_s = len(full.latencies_s) / (full.took_s + deployment.settle())
        posted, samples = asyncio.run(_sampled(deployment, seconds, capacity_per_s / 2))
        assert not posted.refused, posted.refused
        return {
            "capacity_per_s": capacity_per_s,
            "posted_per_s": posted.per_s,
            "post_p99_ms": quantiles(posted.latencies_s, n=100)[98] * 1000,
            "settled_s": deployment.settle(),
            **growths(samples),
        }


async def _sampled(
    deployment: Deployment, seconds: float, per_s: float
) -> tuple[Posted, list[Sample]]:
    posting = asyncio.create_task(deployment.post(seconds=seconds, per_s=per_s))
    samples = []
    while not posting.done():
        await asyncio.wait([posting], timeout=SAMPLE_INTERVAL_S)
        samples.append(await asyncio.to_thread(deployment.sample))
    return await posting, samples[:-1]  # the last one is of the end


def growths(samples: Sequence[Sample]) -> dict[str, float]:
    """How much the last third has more than the middle one; the first third is for warming up.

    Of memory and bytes in percent, of all else as a difference.
    """
    assert len(samples) >= LEAST_SAMPLES, "too short to tell"
    return {
        **{
            f"{name}_mib": median(sample.pss_mib[name] for sample in samples[-len(samples) // 3 :])
            for name in samples[0].pss_mib
        },
        "connections": samples[-1].connections,
        "dead_percent": median(s.dead_share for s in samples[-len(samples) // 3 :]) * 100,
        "kib_per_run": samples[-1].bytes_per_run / 1024,
        "redis_mib": samples[-1].redis_mib,
        "unfinished": samples[-1].unfinished,
        "memory_growth": _percent([sum(sample.pss_mib.values()) for sample in samples]),
        "connections_growth": _difference([sample.connections for sample in samples]),
        "dead_growth": _difference([sample.dead_share * 100 for sample in samples]),
        "record_growth": _percent([sample.bytes_per_run for sample in samples]),
        "redis_growth": _percent([sample.redis_mib for sample in samples]),
        "unfinished_growth": _difference([sample.unfinished for sample in samples]),
    }


def _thirds(values: Sequence[float]) -> tuple[float, float]:
    third = len(values) // 3
    return median(values[third : 2 * third]), median(values[2 * third :])


def _difference(values: Sequence[float]) -> float:
    middle, last = _thirds(values)
    return last - middle


def _percent(values: Sequence[float]) -> float:
    middle, last = _thirds(values)
    return (last / middle - 1) * 100


def _goal(name: str, value: str, bound: float, unit: str) -> Goal:
    def of(rounds: Rounds) -> float:
        return median_of(rounds, "Penstock", value)

    return Goal(name=f"Soak: {name}", bound=bound, unit=unit, is_at_most=True, of=of)


BENCHMARK = Benchmark(
    name="soak",
    title="Soak",
    what="API, worker, isolated worker and beat, with runs of one one-second call each. First 10 s of as many POSTs "
    "as are accepted, which gives the capacity; then half of it for BENCH_SOAK_MINUTES (30 unless set), looked at "
    "every 10 s. Growth is the median of the last third against that of the middle third. The record itself "
    "keeps every run, so it is judged by its bytes per run and its dead rows.",
    units={
        "capacity_per_s": "runs/s",
        "posted_per_s": "runs/s",
        "post_p99_ms": "ms",
        "settled_s": "s until the last run had ended",
        "api_mib": "MiB PSS",
        "worker_mib": "MiB PSS",
        "isolated_mib": "MiB PSS",
        "beat_mib": "MiB PSS",
        "connections": "to PostgreSQL",
        "dead_percent": "% dead rows",
        "kib_per_run": "KiB of the record, indexes included",
        "redis_mib": "MiB",
        "unfinished": "runs",
        "memory_growth": "%",
        "connections_growth": "connections",
        "dead_growth": "percentage points",
        "record_growth": "%",
        "redis_growth": "%",
        "unfinished_growth": "runs",
    },
    subjects={"Penstock": soak},
    goals=(
        _goal("growth of memory", "memory_growth", 2, "%"),
        _goal("growth of connections", "connections_growth", 0, "connections"),
        _goal("growth of the share of dead rows", "dead_growth", 2, "percentage points"),
        _goal("growth of the record's bytes per run", "record_growth", 3, "%"),
        _goal("growth of Redis' memory", "redis_growth", 5, "%"),
        _goal("growth of unfinished runs", "unfinished_growth", 100, "runs"),
    ),
    rounds=1,
)
