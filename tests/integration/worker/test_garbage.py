"""Strangers write to Redis: no worker ends, none even reconnects, and runs go on."""

import asyncio
import json
from itertools import cycle

import pytest

from services.core.queue.contracts import QueueName
from services.core.runs.states import RunState
from tests.fakes.waiting import until
from tests.integration.worker.garbage import SECRET, everything, message
from tests.integration.worker.lab import Lab, LabWorker

QUEUES = {
    "custom": [QueueName.RUNS],
    "prefork": [QueueName.ISOLATED, QueueName.DEFAULT],
}


def _queues(worker: LabWorker, pool: str) -> list[str]:
    return [*QUEUES[pool], f"{worker.name}.dq2"]


async def _assert_works(lab: Lab, pool: str) -> None:
    """A run that is posted now is executed, by way of its hint."""
    post = lab.post if pool == "custom" else lab.post_suspect
    (run,) = await lab.wait(await post())
    assert RunState.SUCCEEDED is run.state


async def _ping(lab: Lab, worker: LabWorker) -> object:
    inspect = lab.app.control.inspect(destination=[worker.name], timeout=5)
    return await asyncio.to_thread(inspect.ping)


def _connections(worker: LabWorker) -> int:
    return worker.output().count("Connected to")


@pytest.mark.parametrize("pool", QUEUES)
async def test_garbage_is_dropped_one_by_one(lab: Lab, pool: str) -> None:
    """Whatever is in a list: the process lives, its connection too, and the log tells how it begins."""
    worker = await lab.start_worker(pool=pool, CELERY_POLL_INTERVAL_S="600")
    queues = _queues(worker, pool)
    garbage = everything()
    with lab.broker() as client:
        for queue in queues:
            client.lpush(queue, *garbage)

    await until(lambda: not any(map(lab.broker_depth, queues)), within_s=20)
    await _assert_works(lab, pool)

    assert worker.process.poll() is None
    assert 1 == _connections(worker), worker.output()[-3000:]
    for queue in queues:
        assert f"dropped garbage from queue {queue}, number 50" in worker.output()
    assert SECRET not in worker.output()
    assert max(map(len, worker.output().splitlines())) < 2000


async def test_keys_of_another_type_are_set_aside(lab: Lab) -> None:
    """Queues and kombu's own keys replaced by something else: renamed, and on it goes."""
    worker = await lab.start_worker(CELERY_POLL_INTERVAL_S="600")
    keys = [*_queues(worker, "custom"), "unacked", "unacked_index", "_kombu.binding.runs"]
    keys += ["_kombu.binding.celery.pidbox", "_kombu.binding_deadlines"]
    with lab.broker() as client:
        overwrite = cycle(
            (
                lambda key: client.set(key, "garbage"),
                lambda key: client.geoadd(key, (1, 1, "garbage")),
                lambda key: client.hset(key, "garbage", "garbage"),
            )
        )
        client.delete(*keys)
        for key, write in zip(keys, overwrite, strict=False):
            write(key)

        await _assert_works(lab, "custom")
        pong = await _ping(lab, worker)

        assert {worker.name: {"ok": "pong"}} == pong
        assert worker.process.poll() is None
        assert "garbage" == client.get("garbage:runs")
        assert client.exists("garbage:unacked_index")
        assert ": renamed to garbage:" in worker.output()


async def test_garbage_to_all_ends_no_worker(lab: Lab) -> None:
    """Remote control is published to all workers; strangers can publish there, too."""
    worker = await lab.start_worker(pool="prefork", CELERY_POLL_INTERVAL_S="600")
    bodies = [[1, 2], {"method": 5}, {"method": "ping", "destination": 5}, {"method": "explode"}]
    with lab.broker() as client:
        for item in everything():
            client.publish("/0.celery.pidbox", item)
        for body in bodies:
            client.publish("/0.celery.pidbox", json.dumps(message(body=body)))

    await _assert_works(lab, "prefork")

    assert {worker.name: {"ok": "pong"}} == await _ping(lab, worker)
    assert 1 == _connections(worker)


async def test_garbage_among_unacknowledged_messages_is_dropped(lab: Lab) -> None:
    """What nobody can read is forgotten, and what is behind it is delivered again."""
    hint = message(delivery_tag="hint")
    with lab.broker() as client:
        notes = {
            "letters": "garbage",
            "number": "1",
            "no message": json.dumps([{"a": 1}, "", "runs"]),
            "no queue": json.dumps([hint, {}, []]),
            "hint": json.dumps([hint, "", QueueName.RUNS]),
        }
        client.hset("unacked", mapping=notes)
        client.zadd("unacked_index", dict.fromkeys([*notes, "nothing"], 1.0))

    worker = await lab.start_worker()

    with lab.broker() as client:
        await until(lambda: not client.hlen("unacked"), within_s=20)
        assert 0 == client.zcard("unacked_index")
    assert worker.process.poll() is None
    assert "dropped garbage from the unacknowledged messages, number 4" in worker.output()
