"""Tasks that operators and beat send."""

import asyncio
import platform
from pathlib import Path

from celery import Celery
from celery.result import AsyncResult

from services import __version__
from services.core.queue.contracts import TaskName
from tests.integration.worker.celery_process import celery_process
from tests.integration.worker.lab import Lab


async def _get(result: AsyncResult) -> object:
    return await asyncio.to_thread(result.get, timeout=15)


async def test_health_check_tells_worker_versions_and_latency(lab: Lab) -> None:
    """Any worker of the default queue answers."""
    worker = await lab.start_worker(pool="prefork")

    report = await _get(lab.app.send_task(TaskName.HEALTH_CHECK))

    assert worker.name == report["worker"]
    assert {"celery", "kombu", "redis", "penstock", "python"} == set(report["versions"])
    assert (__version__, platform.python_version()) == (
        report["versions"]["penstock"],
        report["versions"]["python"],
    )
    assert 0 < report["redis_latency_ms"] < 1000


async def test_beat_sweeps_and_answers_pings(lab: Lab, tmp_path: Path) -> None:
    """Beat's messages lead to sweeps, whose heartbeats show that it lives; its remote control answers."""
    await lab.start_worker(pool="prefork")
    arguments = ["-A", "services.beat.app", "beat", "-n", "celerybeat@lab"]

    with celery_process(*arguments, log=tmp_path / "beat.log", environment=lab.settings):
        await _wait_for_heartbeats(lab, {"beat", "worker-isolated"})
        pong = await _ping(lab.app, "celerybeat@lab")

    assert {"celerybeat@lab": {"ok": "pong"}} == pong


async def test_a_sweep_revives_a_forgotten_run(lab: Lab) -> None:
    """A run whose hint was lost, and that no API process sweeps, is found by the sweep task."""
    await lab.start_worker(pool="prefork")
    await lab.start_worker(CELERY_POLL_INTERVAL_S="600")
    await lab.wait(await lab.post())
    run_id = await lab.post_without_hint()

    async with asyncio.timeout(20):
        while f"second {run_id}" not in lab.noted():
            lab.app.send_task(TaskName.SWEEP_RUNS)
            await asyncio.sleep(0.5)


async def _wait_for_heartbeats(lab: Lab, kinds: set[str]) -> None:
    async with asyncio.timeout(30):
        while not kinds <= {beat.kind for beat in await lab.store.list_heartbeats()}:
            await asyncio.sleep(0.2)


async def _ping(app: Celery, node: str) -> dict[str, dict[str, str]] | None:
    inspect = app.control.inspect(destination=[node], timeout=5)
    return await asyncio.to_thread(inspect.ping)
