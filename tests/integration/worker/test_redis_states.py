"""Redis dies, freezes, forgets, fills up or refuses: workers go on by themselves within seconds."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from services.core.runs.states import RunState
from services.worker.liveness import age_s
from tests.fakes.waiting import until
from tests.integration.fragile_redis import FragileRedis
from tests.integration.worker.lab import Lab, LabWorker

HURT_FOR_S = 4
"""Seconds that Redis stays as it is."""
RECOVERY_S = 10
"""Seconds from Redis' return within which a hint is consumed; 2 to 5 on an idle machine."""
Deed = Callable[[FragileRedis], None]


class State(NamedTuple):
    """What happens to Redis, and how it ends."""

    hurt: Deed
    heal: Deed


STATES = {
    "dead": State(FragileRedis.kill, FragileRedis.start),
    "frozen": State(FragileRedis.freeze, FragileRedis.thaw),
    "full": State(FragileRedis.fill_up, FragileRedis.make_room),
    "read-only": State(FragileRedis.become_replica, FragileRedis.become_master),
    "disk full": State(FragileRedis.break_disk, FragileRedis.repair_disk),
    "other password": State(FragileRedis.change_password, FragileRedis.restore_password),
    "flushed": State(FragileRedis.flush, lambda _: None),
}


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
    worker = LabWorker(folder, lab.settings | {"CELERY_REHINT_AFTER_S": "600"}, pool=pool)
    lab.workers.append(worker)
    return worker


def _connections(worker: LabWorker) -> int:
    return worker.output().count("Connected to")


@pytest.mark.parametrize("state", STATES)
async def test_running_workers_go_on(
    fragile_lab: Lab, fragile: FragileRedis, state: str, record_property
) -> None:
    """Both kinds of worker consume again within seconds; neither process ends or turns unhealthy."""
    lab = fragile_lab
    workers = {
        pool: await lab.start_worker(pool=pool, CELERY_REHINT_AFTER_S="600")
        for pool in ("custom", "prefork")
    }
    for pool in workers:
        await _execute_by_hint(lab, pool)

    STATES[state].hurt(fragile)
    await asyncio.sleep(HURT_FOR_S)
    ages = [age_s(worker.heartbeat_file) for worker in workers.values()]
    STATES[state].heal(fragile)
    seconds = {pool: await _execute_by_hint(lab, pool) for pool in workers}
    print(
        f"RECOVERY running {state} {seconds} ages {ages} conns {[_connections(w) for w in workers.values()]}"
    )

    assert max(ages) < 3
    assert max(seconds.values()) < RECOVERY_S
    assert all(worker.process.poll() is None for worker in workers.values())


@pytest.mark.parametrize("state", [state for state in STATES if state != "flushed"])
async def test_workers_start_in_any_state(
    fragile_lab: Lab, fragile: FragileRedis, state: str, tmp_path: Path
) -> None:
    """A worker that starts while Redis is unwell waits, healthy, and works once it is well."""
    lab = fragile_lab
    STATES[state].hurt(fragile)
    workers = {pool: _begin_worker(lab, tmp_path, pool) for pool in ("custom", "prefork")}
    await until(
        lambda: all(worker.heartbeat_file.exists() for worker in workers.values()), within_s=30
    )
    await asyncio.sleep(HURT_FOR_S)
    STATES[state].heal(fragile)
    seconds = {pool: await _execute_by_hint(lab, pool) for pool in workers}
    print(
        f"RECOVERY starting {state} {seconds} conns {[_connections(w) for w in workers.values()]}"
    )

    assert max(seconds.values()) < RECOVERY_S
    assert all(worker.process.poll() is None for worker in workers.values())
