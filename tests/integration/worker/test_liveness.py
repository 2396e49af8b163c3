"""The health check of a worker tells the truth."""

import asyncio
import subprocess
import sys

from services.worker.liveness import age_s
from tests.fakes.waiting import until
from tests.integration.fragile_redis import FragileRedis
from tests.integration.worker.lab import REPOSITORY, Lab, LabWorker

FRESH_S = 3
"""Seconds within which the lab's probes, one a second, touch the file."""


async def _wait_until_fresh(worker: LabWorker) -> None:
    await until(lambda: age_s(worker.heartbeat_file) < 1, within_s=20)


async def _assert_goes_stale(worker: LabWorker) -> None:
    await until(lambda: age_s(worker.heartbeat_file) > FRESH_S, within_s=15)
    assert worker.process.poll() is None


async def test_a_blocked_loop_shows_without_redis(fragile_lab: Lab, fragile: FragileRedis) -> None:
    """While Redis is away the worker answers for itself (test_redis_states), but not in its sleep."""
    worker = await fragile_lab.start_worker()
    await _wait_until_fresh(worker)
    run_id = await fragile_lab.post("block", 8)
    await fragile_lab.wait_for_step("second", run_id)

    fragile.kill()

    await _assert_goes_stale(worker)
    await _wait_until_fresh(worker)


async def test_a_blocked_loop_shows(lab: Lab) -> None:
    """Code that blocks the asyncio pool's loop stops all runs: the worker is not healthy."""
    worker = await lab.start_worker()
    await _wait_until_fresh(worker)

    await lab.post("block", 8)

    await _assert_goes_stale(worker)
    await _wait_until_fresh(worker)


async def test_a_stopped_consumer_shows(lab: Lab) -> None:
    """A worker that answers pings but takes no messages is not healthy."""
    worker = await lab.start_worker()
    await _wait_until_fresh(worker)

    control = lab.app.control
    control.cancel_consumer(f"{worker.name}.dq2", destination=[worker.name], reply=True)
    pong = control.inspect(destination=[worker.name], timeout=3).ping()

    assert {worker.name: {"ok": "pong"}} == pong
    await _assert_goes_stale(worker)


async def test_a_fully_busy_isolated_worker_is_healthy(lab: Lab) -> None:
    """With every child busy no probe gets through; heartbeats of the runs count as well."""
    worker = await lab.start_worker(pool="prefork")
    runs = [await lab.post_suspect("wait", 10) for _ in range(2)]
    for run_id in runs:
        await lab.wait_for_step("second", run_id)
    await asyncio.sleep(4)

    assert age_s(worker.heartbeat_file) < FRESH_S


async def test_probes_do_not_pile_up(fragile_lab: Lab, fragile: FragileRedis) -> None:
    """A worker that takes no probes stops sending them after a few."""
    worker = await fragile_lab.start_worker()
    await _wait_until_fresh(worker)
    queue = f"{worker.name}.dq2"
    fragile_lab.app.control.cancel_consumer(queue, destination=[worker.name], reply=True)

    await asyncio.sleep(6)

    with fragile.client() as client:
        assert client.llen(queue) <= 3


def test_the_command_tells_by_its_exit_status(tmp_path) -> None:
    """0 for a fresh file; 1 for an old one, none, or no setting at all."""
    fresh, missing = tmp_path / "fresh", tmp_path / "missing"
    fresh.touch()

    def check(environment: dict[str, str]) -> int:
        command = [sys.executable, "-m", "services.worker.liveness"]
        return subprocess.run(command, cwd=REPOSITORY, env=environment, check=False).returncode

    assert 0 == check({"CELERY_HEARTBEAT_FILE": str(fresh)})
    assert 1 == check({"CELERY_HEARTBEAT_FILE": str(missing)})
    assert 1 == check({})
