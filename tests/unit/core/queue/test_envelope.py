"""What counts as a message."""

from celery import Celery

from config.celery import CelerySettings
from config.redis import RedisSettings
from services.core.queue.app import create_celery_app
from services.core.queue.envelope import TaskHeaders, check_task, excerpt

UNUSED = {"group", "group_index", "replaced_task_nesting", "stamped_headers", "stamps"}
"""Headers of Celery's workflows, which are left out."""


def _app() -> Celery:
    return create_celery_app(RedisSettings(), CelerySettings())


def test_every_header_that_celery_writes_is_known() -> None:
    """A header that a new version of Celery adds would be left out in silence."""
    message = _app().amqp.as_task_v2("id", "runs.execute", expires=5, countdown=5, time_limit=3)

    assert set(message.headers) - UNUSED <= set(TaskHeaders.model_fields)


def test_what_celery_sends_is_a_task() -> None:
    """Headers come through as they were sent."""
    message = _app().amqp.as_task_v2(
        "id", "runs.execute", kwargs={"run_id": "01a2089b-2264-7507-92c5-066c4753adcb", "new": 1}
    )

    known = check_task(message.headers, list(message.body)).known()

    assert known == {name: message.headers[name] for name in known}
    assert {"task", "id", "retries", "argsrepr"} <= set(known)


def test_headers_that_nobody_reads_are_left_out() -> None:
    """Celery would take a stranger's header for what to start next."""
    headers = {"task": "runs.execute", "id": "1", "callbacks": [{"task": "runs.sweep"}]}

    assert {"task": "runs.execute", "id": "1"} == check_task(headers, [[], {}, {}]).known()


def test_an_excerpt_is_short_and_holds_no_secret() -> None:
    """Log lines are read by many; also a secret at the cut is left out."""
    text = "x" * 90 + " sk-ant-api03-secret-secret-secret " + "y" * 10_000_000

    assert 100 == len(excerpt(text))
    assert "api03" not in excerpt(text)
    assert "�" in excerpt(b"\xff")
