"""Tasks of Celery; as a command, enqueue as many as asked."""

from celery import Celery

from tests.bench.peers.apps import work
from tests.bench.peers.ticks import make_tick

URL = work.setting("BENCH_REDIS")
app = Celery("bench", broker=URL, backend=f"{URL.removesuffix('/0')}/1")
if work.setting("BENCH_SETTINGS") == "careful":
    app.conf.update(
        task_acks_late=True, worker_prefetch_multiplier=1, worker_max_tasks_per_child=100
    )
tick = make_tick()


@app.task(name="noop")
def noop(number: int, text: str) -> int:
    """Do nothing."""
    tick()
    return number


if __name__ == "__main__":
    began_s = work.begin()
    for each in range(work.count()):
        noop.delay(**work.arguments(each))
    work.report(began_s)
