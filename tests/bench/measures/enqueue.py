"""How fast work is handed over."""

from collections.abc import Mapping

from tests.bench.benchmark import Benchmark
from tests.bench.measures.drain import RUNS, SETTINGS, post
from tests.bench.peers import arq, celery, dbos, dramatiq, procrastinate, rq, taskiq
from tests.bench.stack import running_stack


def penstock(*, runs: int = RUNS) -> Mapping[str, float]:
    """Post batches of 10,000 over HTTP until all are durable; CPU is the API's."""
    with running_stack(**SETTINGS) as stack, stack.api() as (url, api):
        cpu_s = api.cpu_s
        seconds = post(stack, url, runs=runs)
        return {"rate": runs / seconds, "cpu_ms": (api.cpu_s - cpu_s) / runs * 1000}


BENCHMARK = Benchmark(
    name="enqueue",
    title="Handing over work",
    what=(
        "Tasks with 180 bytes of arguments, nobody executing them yet. Penstock: HTTP batches of 10,000, validated and "
        "committed, the CPU being the API's. Peers: one process with the library, one task after the other; "
        "procrastinate a thousand at a time; the CPU is that process's. `accept` has single POSTs."
    ),
    units={"rate": "1/s", "cpu_ms": "ms"},
    subjects={
        "Penstock": penstock,
        "procrastinate": procrastinate.enqueue,
        "DBOS": dbos.enqueue,
        "taskiq": taskiq.enqueue,
        "dramatiq": dramatiq.enqueue,
        "arq": arq.enqueue,
        "Celery": celery.enqueue,
        "rq": rq.enqueue,
    },
)
