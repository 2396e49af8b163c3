"""Hints: cheap for callers whatever Redis does, and few."""

import json
import logging
import time
from collections.abc import Iterator
from uuid import uuid4

import pytest
from celery import Celery
from celery.signals import before_task_publish
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

from services.core.queue.contracts import QueueName, TaskName
from services.core.queue.publisher import FULL_QUEUE, WAKE_UPS_WAITING, HintPublisher
from tests.integration.fragile_redis import STATES, FragileRedis
from tests.integration.worker.pool_worker import wait_until

BURST = 1000


@pytest.fixture
def publisher(app: Celery) -> Iterator[HintPublisher]:
    """A started publisher."""
    publisher = HintPublisher(app)
    publisher.start()
    yield publisher
    publisher.close(timeout_s=5)


def _messages(fragile: FragileRedis, queue: QueueName) -> list[dict]:
    with fragile.client() as client:
        return [json.loads(message) for message in client.lrange(queue, 0, -1)]


def _wait_for_messages(fragile: FragileRedis, queue: QueueName, count: int) -> list[dict]:
    wait_until(lambda: len(_messages(fragile, queue)) >= count, timeout_s=10)
    return _messages(fragile, queue)


def _hint_for_us(publisher: HintPublisher, count: int) -> list[float]:
    """Hint often; microseconds that each call took."""
    took = []
    for _ in range(count):
        started = time.perf_counter()
        publisher.hint(uuid4())
        took.append(1e6 * (time.perf_counter() - started))
    return took


def test_a_hint_becomes_one_message_with_only_an_id(
    publisher: HintPublisher, fragile: FragileRedis
) -> None:
    """An idle system answers at once, and the message holds no data."""
    run_id = uuid4()

    publisher.hint(run_id)
    (message,) = _wait_for_messages(fragile, QueueName.RUNS, 1)

    assert TaskName.EXECUTE_RUN == message["headers"]["task"]
    assert f"{{'run_id': '{run_id}'}}" == message["headers"]["kwargsrepr"]
    assert "application/json" == message["content-type"]
    assert len(json.dumps(message)) < 2000


def test_a_burst_becomes_a_few_messages(publisher: HintPublisher, fragile: FragileRedis) -> None:
    """One hint lets a worker claim all it can hold, so a burst needs no message per run."""
    _hint_for_us(publisher, BURST)
    publisher.close(timeout_s=10)

    messages = _messages(fragile, QueueName.RUNS)

    assert 1 <= len(messages) <= BURST / 20


def test_each_suspect_run_is_named(publisher: HintPublisher, fragile: FragileRedis) -> None:
    """The isolated worker takes one run per message, so each gets one; a repeated hint adds none."""
    run_ids = [uuid4() for _ in range(20)]

    for run_id in [*run_ids, *run_ids]:
        publisher.hint(run_id, is_isolated=True)
    publisher.close(timeout_s=10)
    messages = _messages(fragile, QueueName.ISOLATED)

    named = {message["headers"]["kwargsrepr"] for message in messages}
    assert {f"{{'run_id': '{run_id}'}}" for run_id in run_ids} == named
    assert [] == _messages(fragile, QueueName.RUNS)


def test_hints_carry_their_callers_trace(publisher: HintPublisher, fragile: FragileRedis) -> None:
    """Whatever injects trace headers while publishing sees the span in which the hint was given."""
    seen = []

    def note(**_: object) -> None:
        seen.append(trace.get_current_span().get_span_context().trace_id)

    before_task_publish.connect(note)
    try:
        with TracerProvider().get_tracer("test").start_as_current_span("request") as span:
            publisher.hint(uuid4())
        _wait_for_messages(fragile, QueueName.RUNS, 1)
    finally:
        before_task_publish.disconnect(note)

    assert [span.get_span_context().trace_id] == seen


@pytest.mark.parametrize("harm", ["freeze", "kill", "fill_up"])
def test_no_caller_waits_for_redis(
    publisher: HintPublisher, fragile: FragileRedis, harm: str
) -> None:
    """Frozen or refused, a hint returns in microseconds."""
    getattr(fragile, harm)()

    took_us = sorted(_hint_for_us(publisher, BURST))

    # Not the slowest: on a busy machine any thread may have to wait for its turn.
    assert took_us[BURST // 2] < 200
    assert took_us[BURST * 99 // 100] < 20_000


@pytest.mark.parametrize("state", ["frozen", "dead", "full", "read-only"])
def test_hints_go_through_again_after_an_outage(
    publisher: HintPublisher,
    fragile: FragileRedis,
    state: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It heals by itself, and the log tells of the outage once, not once per hint."""
    caplog.set_level(logging.INFO)
    publisher.hint(uuid4())
    _wait_for_messages(fragile, QueueName.RUNS, 1)
    STATES[state].hurt(fragile)
    for _ in range(5):
        publisher.hint(uuid4())
        time.sleep(0.6)

    STATES[state].heal(fragile)
    time.sleep(1)
    before = len(_messages(fragile, QueueName.RUNS))
    publisher.hint(uuid4())
    _wait_for_messages(fragile, QueueName.RUNS, before + 1)
    wait_until(lambda: "things go through again" in caplog.text, timeout_s=5)

    assert 1 == caplog.text.count("nothing goes through")
    assert 1 == caplog.text.count("things go through again")


def test_closing_waits_no_longer_than_told(publisher: HintPublisher, fragile: FragileRedis) -> None:
    """A process that stops while Redis is frozen is not held up."""
    fragile.freeze()
    publisher.hint(uuid4())

    started = time.monotonic()
    publisher.close(timeout_s=0.2)

    assert time.monotonic() - started < 1


def test_an_unattended_queue_does_not_fill_redis(
    publisher: HintPublisher, fragile: FragileRedis
) -> None:
    """While no worker is there, hints stop."""
    with fragile.client() as client:
        client.rpush(QueueName.RUNS, *["x"] * FULL_QUEUE)

    publisher.hint(uuid4())
    publisher.close(timeout_s=5)

    with fragile.client() as client:
        assert FULL_QUEUE == client.llen(QueueName.RUNS)


def test_messages_that_only_wake_workers_stop_at_a_hundred(
    publisher: HintPublisher, fragile: FragileRedis
) -> None:
    """More would wake nobody else; those of suspect runs are for one run each, and go on."""
    queues = (QueueName.RUNS, QueueName.ISOLATED)
    with fragile.client() as client:
        for queue in queues:
            client.rpush(queue, *["x"] * WAKE_UPS_WAITING)

    publisher.hint(uuid4())
    publisher.hint(uuid4(), is_isolated=True)
    publisher.close(timeout_s=5)

    with fragile.client() as client:
        assert [WAKE_UPS_WAITING, WAKE_UPS_WAITING + 1] == [client.llen(name) for name in queues]


@pytest.mark.parametrize("queue", [QueueName.RUNS, QueueName.ISOLATED])
def test_a_key_of_another_type_is_out_of_the_way(
    publisher: HintPublisher, fragile: FragileRedis, queue: QueueName
) -> None:
    """A queue that a stranger has overwritten is renamed, and the hint goes through."""
    with fragile.client() as client:
        client.set(queue, "garbage")

        publisher.hint(uuid4(), is_isolated=queue is QueueName.ISOLATED)
        publisher.close(timeout_s=5)

        assert 1 == client.llen(queue)
        assert "garbage" == client.get(f"garbage:{queue}")
        assert 0 < client.ttl(f"garbage:{queue}") <= 86_400
