"""Strangers publish events: Flower goes on showing runs."""

import asyncio
import json
from pathlib import Path

import httpx

from tests.fakes.waiting import until
from tests.integration.servers import free_port
from tests.integration.worker.celery_process import celery_process
from tests.integration.worker.garbage import everything, message
from tests.integration.worker.lab import Lab

FLOWER = ("-A", "services.flower.app", "flower", "--conf=services/flower/flowerconfig.py")
EVENTS = [
    [],
    5,
    {},
    {"type": "task-succeeded"},
    {"type": "task-started", "uuid": {}, "hostname": 5, "timestamp": "x", "clock": "x"},
    {"type": "worker-heartbeat", "hostname": [], "timestamp": {}, "utcoffset": "x", "clock": -1},
    [{"type": "task-sent"}, 7, None],
]


async def test_flower_outlives_garbage(lab: Lab, tmp_path: Path) -> None:
    """Neither what is no message nor what is no event keeps later runs from showing."""
    await lab.start_worker()
    url = f"http://127.0.0.1:{(port := free_port())}"
    log = tmp_path / "flower.log"
    environment = lab.settings | {"FLOWER_PORT": str(port), "FLOWER_PASSWORD": "pass"}
    with celery_process(*FLOWER, log=log, environment=environment) as flower:

        def shown() -> dict[str, dict[str, str]]:
            try:
                answer = httpx.get(f"{url}/api/tasks", auth=("penstock", "pass"))
            except httpx.TransportError:
                return {}
            return answer.json() if answer.is_success else {}

        async def shows_runs() -> None:
            """A run shows in the end; Flower connects anew after what is no event, and misses some."""
            async with asyncio.timeout(30):
                while True:
                    run_id = str(await lab.post())
                    await asyncio.sleep(1)
                    if run_id in shown():
                        return

        await until(lambda: "Connected to" in log.read_text(), within_s=20)
        await shows_runs()
        with lab.broker() as client:
            for item in [*everything(), *(json.dumps(message(body=body)) for body in EVENTS)]:
                for topic in ("worker.heartbeat", "task.multi", "task.started"):
                    client.publish(f"/0.celeryev/{topic}", item)
        await shows_runs()

        assert max(map(len, log.read_text().splitlines())) < 5000
        assert flower.poll() is None, log.read_text()
        assert "dropped garbage from broadcast /0.celeryev/task.multi" in log.read_text()
