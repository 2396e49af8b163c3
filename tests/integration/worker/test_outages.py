"""Redis dies, and strangers write to its queues: runs go on."""

import asyncio
import json
import time
from uuid import uuid4

from services.core.queue.contracts import QueueName, TaskName
from services.core.runs.states import RunState
from tests.fakes.waiting import until
from tests.integration.fragile_redis import FragileRedis
from tests.integration.worker.lab import Lab


async def test_runs_go_on_without_redis(fragile_lab: Lab, fragile: FragileRedis) -> None:
    """With Redis dead, running runs finish and new ones are found by the worker itself."""
    lab = fragile_lab
    worker = await lab.start_worker()
    running = await lab.post("wait", 3)
    await lab.wait_for_step("second", running)

    fragile.kill()
    new = await lab.post("silent")
    runs = await lab.wait(running, new, within_s=20)

    assert [RunState.SUCCEEDED] * 2 == [run.state for run in runs]
    assert worker.process.poll() is None


async def test_hints_wake_the_worker_again_after_a_restart(
    fragile_lab: Lab, fragile: FragileRedis
) -> None:
    """Redis comes back empty: the worker consumes again by itself, quickly."""
    lab = fragile_lab
    worker = await lab.start_worker(CELERY_POLL_INTERVAL_S="60")
    await lab.wait(await lab.post())

    fragile.kill()
    await asyncio.sleep(2)
    fragile.start()
    await until(lambda: worker.output().count("Connected to") >= 2, within_s=30)
    started_s = time.monotonic()
    (run,) = await lab.wait(await lab.post())

    assert RunState.SUCCEEDED is run.state
    assert time.monotonic() - started_s < 10


async def test_strange_messages_do_not_stop_a_worker(lab: Lab) -> None:
    """An unknown task, another content type, broken JSON, wrong arguments: dropped, and on it goes."""
    worker = await lab.start_worker()
    with lab.broker() as client:
        for message in _strange_messages():
            client.lpush(QueueName.RUNS, json.dumps(message))

    (run,) = await lab.wait(await lab.post())
    await until(lambda: lab.broker_depth(QueueName.RUNS) == 0, within_s=10)

    assert RunState.SUCCEEDED is run.state
    assert worker.process.poll() is None


def _strange_messages() -> list[dict]:
    """Messages as kombu would write them, but no worker of ours expects."""

    def message(task: str, *, content_type: str = "application/json", body: str | None = None):
        task_id = str(uuid4())
        return {
            "body": body if body is not None else json.dumps([[], {}, {}]),
            "content-encoding": "utf-8",
            "content-type": content_type,
            "headers": {"lang": "py", "task": task, "id": task_id, "root_id": task_id},
            "properties": {
                "correlation_id": task_id,
                "delivery_mode": 2,
                "delivery_info": {"exchange": "", "routing_key": "runs"},
                "priority": 9,
                "body_encoding": "utf-8",
                "delivery_tag": task_id,
            },
        }

    return [
        message("runs.explode"),
        message(TaskName.EXECUTE_RUN, content_type="application/x-python-serialize"),
        message(TaskName.EXECUTE_RUN, body="{not json"),
        message(TaskName.EXECUTE_RUN, body=json.dumps("text")),
        message(TaskName.EXECUTE_RUN, body=json.dumps([])),
        message(TaskName.EXECUTE_RUN, body=json.dumps([None, None, None])),
        message(TaskName.EXECUTE_RUN, body=json.dumps([[1, 2, 3], {"never": "heard"}, {}])),
    ]
