"""How a peer drains a backlog of tasks that do nothing, and how fast it takes them."""

from collections.abc import Mapping

from tests.bench.peers.peer import Bench
from tests.bench.stack import Process


def drain(bench: Bench, *worker: str, count: int) -> Mapping[str, float]:
    """Enqueue, then start the worker (`python -m …`), and time the tasks' beginnings."""
    bench.enqueue(count)
    with bench.process(*worker) as process:
        return watch(bench, process, count=count)


def watch(bench: Bench, process: Process, *, count: int) -> Mapping[str, float]:
    """What is seen of a process that executes so many tasks, from the first one's beginning on."""
    bench.wait_for(1)
    first_cpu_s, first = process.cpu_s, len(bench.starts())
    bench.wait_for(count)
    cpu_s, pss_mib = process.cpu_s, process.pss_mib
    starts = bench.starts()
    return {
        "rate": (count - 1) / (starts[-1] - starts[0]),
        "cpu_ms": (cpu_s - first_cpu_s) / max(count - first, 1) * 1000,
        "pss_mib": pss_mib,
    }


def enqueue(bench: Bench, *, count: int) -> Mapping[str, float]:
    """Enqueue as the library does it, in one process."""
    wall_s, cpu_s = bench.enqueue(count)
    return {"rate": count / wall_s, "cpu_ms": cpu_s / count * 1000}
