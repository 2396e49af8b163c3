"""Redis dies, freezes, forgets, fills up or refuses: workers go on by themselves within seconds."""

import asyncio
import time
from pathlib import Path

import pytest

from services.core.runs.states import RunState
from services.worker.liveness import age_s
from tests.fakes.waiting import until
from tests.integration.fragile_redis import STATES, FragileRedis
from tests.integration.worker.lab import Lab, LabWorker

POOLS = ("custom", "prefork")
BY_HINTS_ONLY = {"CELERY_POLL_INTERVAL_S": "600"}
HURT_FOR_S = 2
"""Seconds that Redis stays as it is."""
RECOVERY_S = 10
"""Seconds from Redis' return within which a hint is consumed; it takes 0.2 to 4."""
FRESH_S = 3
"""Seconds; the lab's workers touch their files each second."""


async def _execute_by_hint(lab: Lab, pool: str) -> float:
    """Seconds until a hint has led to the execution of a run; only hints lead there."""
    started_s = time.monotonic()
    is_isolated = pool == "prefork"
    run_id = await (lab.post_suspect() if is_isolated else lab.post())
    async with asyncio.timeout(60):
        while (await lab.get(run_id)).state is not RunState.SUCCEEDED:
            lab.publisher.hint(run_id, is_isolated=is_isolated)
            await asyncio.sleep(0.2)
    return time.monotonic() - started_s


def _begin_worker(lab: Lab, folder: Path, pool: str) -> LabWorker:
    """A worker that only hints wake, and that is not waited for."""
    worker = LabWorker(folder, lab.settings | BY_HINTS_ONLY, pool=pool)
    lab.workers.append(worker)
    return worker


async def test_running_workers_go_on(fragile_lab: Lab, fragile: FragileRedis) -> None:
    """Both kinds of worker live and stay healthy in every state, and soon consume again after it."""
    lab = fragile_lab
    workers = {pool: await lab.start_worker(pool=pool, **BY_HINTS_ONLY) for pool in POOLS}
    for pool in workers:
        await _execute_by_hint(lab, pool)

    for name, state in STATES.items():
        state.hurt(fragile)
        await asyncio.sleep(HURT_FOR_S)
        ages_s = [age_s(worker.heartbeat_file) for worker in workers.values()]
        state.heal(fragile)
        seconds = [await _execute_by_hint(lab, pool) for pool in workers]

        assert max(ages_s) < FRESH_S, name
        assert max(seconds) < RECOVERY_S, name
        assert all(worker.process.poll() is None for worker in workers.values()), name


@pytest.mark.parametrize(
    ("state", "pool"),
    [
        ("dead", "prefork"),  # the asyncio worker: see below
        ("frozen", "custom"),
        ("full", "prefork"),
        ("read-only", "custom"),
    ],
)
async def test_workers_start_in_any_state(
    fragile_lab: Lab, fragile: FragileRedis, tmp_path: Path, state: str, pool: str
) -> None:
    """A worker that starts while Redis is unwell waits, healthy, and works once it is well."""
    lab = fragile_lab
    STATES[state].hurt(fragile)
    worker = _begin_worker(lab, tmp_path, pool)

    await until(worker.heartbeat_file.exists, within_s=30)
    await asyncio.sleep(FRESH_S)
    age = age_s(worker.heartbeat_file)
    STATES[state].heal(fragile)

    assert age < FRESH_S
    assert await _execute_by_hint(lab, pool) < RECOVERY_S
    assert worker.process.poll() is None


async def test_a_worker_that_starts_without_redis_executes_runs(
    fragile_lab: Lab, fragile: FragileRedis, tmp_path: Path
) -> None:
    """The asyncio worker looks into the record before it has ever seen Redis."""
    lab = fragile_lab
    fragile.kill()
    worker = LabWorker(tmp_path, lab.settings | {"CELERY_POLL_INTERVAL_S": "1"}, pool="custom")
    lab.workers.append(worker)

    (run,) = await lab.wait(await lab.post("silent"), within_s=30)

    assert RunState.SUCCEEDED is run.state
    assert "Connected to" not in worker.output()


async def test_nothing_is_missed_after_a_flush(fragile_lab: Lab, fragile: FragileRedis) -> None:
    """Blocked in BRPOP, with messages unacknowledged, and with kombu's bindings gone."""
    lab = fragile_lab
    worker = await lab.start_worker(pool="prefork", **BY_HINTS_ONLY)
    inspect = lab.app.control.inspect(destination=[worker.name], timeout=3)
    pong = {worker.name: {"ok": "pong"}}
    assert pong == await asyncio.to_thread(inspect.ping)
    run_id = await lab.post_suspect("wait", 2)
    await lab.wait_for_step("second", run_id)

    fragile.flush()
    (run,) = await lab.wait(run_id)
    took_s = await _execute_by_hint(lab, "prefork")
    answer = await asyncio.to_thread(inspect.ping)
    await until(lambda: age_s(worker.heartbeat_file) < 1, within_s=5)

    assert RunState.SUCCEEDED is run.state
    assert took_s < RECOVERY_S
    assert pong == answer
    assert 1 == worker.output().count("Connected to")
