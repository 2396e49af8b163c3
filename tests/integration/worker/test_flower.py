"""What Flower shows of runs: a real Flower, a real worker."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest

from tests.integration.servers import free_port
from tests.integration.worker.celery_process import celery_process
from tests.integration.worker.lab import Lab

LOGIN = ("penstock", "flower-Pa55")


@dataclass
class Flower:
    """A running Flower."""

    http: httpx.AsyncClient

    async def wait_for_task(self, uuid: str, state: str) -> dict[str, Any]:
        """A task, once it has the state."""
        task: dict[str, Any] = {}
        for _ in range(100):
            answer = await self.http.get("/api/tasks", params={"limit": 1000})
            task = answer.json().get(uuid, {})
            if task.get("state") == state:
                return task
            await asyncio.sleep(0.1)
        pytest.fail(f"{uuid} is not {state}: {task}")


@pytest.fixture
async def flower(lab: Lab, tmp_path: Path) -> AsyncIterator[Flower]:
    """Flower with our configuration and a password."""
    port = free_port()
    environment = lab.settings | {"FLOWER_PORT": str(port), "FLOWER_PASSWORD": LOGIN[1]}
    arguments = ["-A", "services.flower.app", "flower"]
    arguments += ["--conf=services/flower/flowerconfig.py"]
    log = tmp_path / "flower.log"
    with celery_process(*arguments, log=log, environment=environment) as process:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", auth=LOGIN) as http:
            for _ in range(200):
                assert process.poll() is None, log.read_text()
                try:
                    (await http.get("/healthcheck")).raise_for_status()
                    break
                except httpx.TransportError:
                    await asyncio.sleep(0.1)
            yield Flower(http)


async def test_each_run_is_a_task_of_its_own(lab: Lab, flower: Flower) -> None:
    """Name, run id, worker, state and runtime are those of the run, not of a hint."""
    worker = await lab.start_worker()
    run_id = await lab.post("wait", 1)

    await flower.wait_for_task(str(run_id), "STARTED")
    task = await flower.wait_for_task(str(run_id), "SUCCESS")

    assert ("run:lab", worker.name) == (task["name"], task["worker"])
    assert str(run_id) in task["args"]
    assert 0.9 < task["runtime"] < 5
    names = {task["name"] for task in (await flower.http.get("/api/tasks")).json().values()}
    assert {"run:lab"} == names


async def test_tries_and_failures_are_told(lab: Lab, flower: Flower) -> None:
    """A try that failed is RETRY, the next one a task of its own; a dead letter is FAILURE."""
    await lab.start_worker(CELERY_MAX_ATTEMPTS="2")
    flaky, broken = await lab.post("flaky"), await lab.post("break")
    await lab.wait(flaky, broken)

    first = await flower.wait_for_task(str(flaky), "RETRY")
    await flower.wait_for_task(f"{flaky}.2", "SUCCESS")
    failed = await flower.wait_for_task(f"{broken}.2", "FAILURE")

    assert "second: not yet" in first["exception"]
    assert "retries_exhausted" in failed["exception"]


async def test_only_the_password_lets_in(flower: Flower) -> None:
    """Nobody looks without it, and those who look change nothing."""
    base_url = flower.http.base_url
    async with httpx.AsyncClient(base_url=base_url) as stranger:
        refused = await stranger.get("/api/workers")
    action = await flower.http.post("/api/task/async-apply/runs.execute", json={})

    assert 401 == refused.status_code
    assert 403 == action.status_code


async def test_a_bare_uuid_leads_to_its_run(lab: Lab, flower: Flower) -> None:
    """A run's id opens its page."""
    await lab.start_worker()
    run_id: UUID = await lab.post()
    await flower.wait_for_task(str(run_id), "SUCCESS")

    page = await flower.http.get(f"/task/{run_id}")

    assert 200 == page.status_code
    assert "run:lab" in page.text
