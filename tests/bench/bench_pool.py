"""What the asyncio pool can do: `python -m tests.bench.bench_pool`, about half a minute.

The queue is filled first and the time runs from the worker being ready, so that only the worker is
measured. Exit status 1 if a thousand one-second tasks take 6 s or more.
"""

import os
import sys
import tempfile
import time
from pathlib import Path
from statistics import mean, quantiles

from celery import Celery

from config.redis import RedisSettings
from tests.integration import servers
from tests.integration.worker.pool_worker import PoolWorker, wait_until

THOUSAND_MAX_S = 6.0


def main() -> int:
    """Measure, and print a line each."""
    start = servers.redis_container if servers.uses_containers() else servers.embedded_redis
    with start() as settings:
        thousand_s = drain(settings, "sleep", (1.0,), count=1000)
        report(f"1,000 one-second tasks at once: {thousand_s:.1f} s")
        for task in ("add", "add_without_result", "add_by_waiting"):
            seconds = drain(settings, task, (1, 2), count=3000)
            report(f"3,000 x {task}: {3000 / seconds:.0f}/s")
        report(store_cost(settings))
    return int(thousand_s >= THOUSAND_MAX_S)


def report(line: str) -> None:
    """Show a line at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def drain(
    settings: RedisSettings, task: str, arguments: tuple[object, ...], *, count: int
) -> float:
    """Seconds that one worker takes for so many tasks."""
    log = Path(tempfile.mkdtemp(prefix="bench-pool-")) / "log"
    worker = PoolWorker(
        settings, log, concurrency="1000", loglevel="WARNING", POOL_APP_TRACK_STARTED="0"
    )
    worker.send_many(task, [arguments] * count)  # while it starts up
    try:
        wait_until(lambda: worker.queued() < count, timeout_s=30, what=worker.output)
        begun, cpu_begun_s = time.monotonic(), cpu_s(worker)
        wait_until(
            lambda: worker.queued() == worker.unacked() == 0, timeout_s=60, what=worker.output
        )
        seconds = time.monotonic() - begun
        cpu_ms = (cpu_s(worker) - cpu_begun_s) / count * 1000
        resident_mb = worker.call("count_leftovers")["resident_kb"] // 1024
        report(f"{count} x {task}: {cpu_ms:.2f} ms of CPU each, {resident_mb} MB resident")
        worker.stop()
        return seconds
    finally:
        worker.close()


def cpu_s(worker: PoolWorker) -> float:
    """CPU time of the worker; unlike wall time it hardly depends on what else the machine does."""
    fields = Path(f"/proc/{worker.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def store_cost(settings: RedisSettings) -> str:
    """What storing one result takes: so long it blocks the loop."""
    with Celery("storer", backend=settings.result_url) as storer:
        times_ms = []
        for number in range(1000):
            begun = time.perf_counter()
            storer.backend.store_result(f"bench-{number}", number, "SUCCESS")
            times_ms.append((time.perf_counter() - begun) * 1000)
    p99_ms = quantiles(times_ms, n=100)[98]
    return f"storing a result: {mean(times_ms):.2f} ms on average, 99 % within {p99_ms:.2f} ms"


if __name__ == "__main__":
    sys.exit(main())
