"""During a rolling deploy old workers get messages of a newer version."""

import asyncio
import json

from services.core.queue.contracts import QueueName, TaskName
from services.core.runs.states import RunState
from services.worker.consumer import MAX_PUT_BACKS
from tests.fakes.waiting import until
from tests.integration.worker.garbage import message
from tests.integration.worker.lab import Lab


async def test_an_unknown_task_waits_for_a_newer_worker(lab: Lab) -> None:
    """Put back each second, it is neither lost nor held up by known ones, nor does it hold them up."""
    worker = await lab.start_worker(pool="prefork", CELERY_POLL_INTERVAL_S="600")
    unknown = [message("runs.archive", headers={"new": {"header": n}}) for n in range(5)]
    with lab.broker() as client:
        client.lpush(QueueName.ISOLATED, *map(json.dumps, unknown))

    (run,) = await lab.wait(await lab.post_suspect())
    await asyncio.sleep(4)
    worker.stop()

    with lab.broker() as client:
        left = [json.loads(item) for item in client.lrange(QueueName.ISOLATED, 0, -1)]
    assert RunState.SUCCEEDED is run.state
    assert list(range(5)) == sorted(item["headers"]["new"]["header"] for item in left)
    for item in left:
        assert unknown[0]["body"] == item["body"]
        assert 2 <= item["headers"]["penstock_put_backs"] <= 10
    assert 5 == worker.output().count("task runs.archive is unknown here")


async def test_an_unknown_task_is_not_put_back_for_ever(lab: Lab) -> None:
    """After a minute nobody will know it."""
    worker = await lab.start_worker(CELERY_POLL_INTERVAL_S="600")
    with lab.broker() as client:
        old = message("runs.archive", headers={"penstock_put_backs": MAX_PUT_BACKS - 1})
        client.lpush(QueueName.RUNS, json.dumps(old))

    await until(lambda: "no worker knows the task runs.archive" in worker.output(), within_s=10)

    assert 0 == lab.broker_depth(QueueName.RUNS)
    assert worker.process.poll() is None


async def test_new_arguments_of_a_known_task_are_borne(lab: Lab) -> None:
    """A hint with more in it than this version knows still wakes the worker."""
    await lab.start_worker(CELERY_POLL_INTERVAL_S="600")
    run_id = await lab.post_without_hint()
    lab.app.send_task(TaskName.EXECUTE_RUN, kwargs={"run_id": str(run_id), "priority": 3})

    await lab.wait_for_step("second", run_id)
