"""How a peer holds many calls to Claude at once, in one worker process."""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from config.anthropic import AnthropicSettings
from tests.bench.peers.peer import Bench, on_redis
from tests.bench.stack import Process, running_stack

CALLS: Final = 1000
LATENCY_MS: Final = 1000
LOOK_INTERVAL_S: Final = 0.2


@contextmanager
def with_claude(peer: str) -> Iterator[Bench]:
    """A peer on Redis, and a Claude that answers each call after a second."""
    with running_stack() as stack, stack.simulator(SIMULATOR_LATENCY_MS=str(LATENCY_MS)) as url:
        model = str(AnthropicSettings.model_fields["model"].default)
        with on_redis(peer, ANTHROPIC_SIMULATOR_URL=url, BENCH_MODEL=model) as bench:
            yield bench


def hold(bench: Bench, *worker: str, app: str, count: int) -> Mapping[str, float]:
    """Hold so many calls; after one that does not count, which loads and connects all.

    Args:
        bench: The peer.
        worker: `python -m …`, one process.
        app: The module that enqueues, and waits for all results.
        count: Calls.

    Returns:
        wall_s: From the first task's enqueuing to the last result.
        base_mib: PSS of the worker before.
        per_run_mib: The most that it grew by, for each call.
        cpu_ms: The worker's, for each call.
    """
    with bench.process(*worker) as process:
        bench.enqueue(1, app=app)
        base_mib, base_cpu_s = process.pss_mib, process.cpu_s
        with watching(process) as seen_mib:
            wall_s, _ = bench.enqueue(count, app=app)
        cpu_s = process.cpu_s - base_cpu_s
    return {
        "wall_s": wall_s,
        "base_mib": base_mib,
        "per_run_mib": (max(seen_mib) - base_mib) / count,
        "cpu_ms": cpu_s / count * 1000,
    }


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
