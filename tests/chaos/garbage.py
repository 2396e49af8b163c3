"""What does not belong on a Celery queue."""

import base64
import json
import pickle
import uuid
from typing import Any, Final

from tests.chaos.scene import Scene

QUEUES: Final = ("runs", "isolated", "default")
LARGE_BYTES: Final = 10_000_000


def envelope(body: bytes, *, content_type: str, task: str) -> bytes:
    """A message as kombu writes it to a Redis list."""
    properties: dict[str, Any] = {
        "body_encoding": "base64",
        "correlation_id": str(uuid.uuid4()),
        "delivery_info": {"exchange": "", "routing_key": "runs"},
        "delivery_mode": 2,
        "delivery_tag": str(uuid.uuid4()),
        "priority": 0,
    }
    message = {
        "body": base64.b64encode(body).decode(),
        "content-encoding": "utf-8" if content_type == "application/json" else "binary",
        "content-type": content_type,
        "headers": {"id": str(uuid.uuid4()), "lang": "py", "task": task, "argsrepr": "()"},
        "properties": properties,
    }
    return json.dumps(message).encode()


def not_json() -> bytes:
    """Text that nobody wrote."""
    return b"<<garbage>> \x00\xff"


def no_message() -> bytes:
    """JSON without anything that kombu expects."""
    return b'{"hello": "world"}'


def pickled() -> bytes:
    """A message in a format that can carry code, and is not accepted."""
    body = pickle.dumps(((), {}, {}))
    return envelope(body, content_type="application/x-python-serialize", task="runs.execute")


def unknown_task() -> bytes:
    """A task of a release that is not here."""
    return envelope(b"[[], {}, {}]", content_type="application/json", task="runs.not_there")


def large() -> bytes:
    """10 MB for a task that takes no data."""
    body = json.dumps([["x" * LARGE_BYTES], {}, {}]).encode()
    return envelope(body, content_type="application/json", task="runs.execute")


GARBAGE: Final = {
    "not JSON": not_json,
    "no Celery message": no_message,
    "pickle": pickled,
    "unknown task": unknown_task,
    "10 MB": large,
}
"""Each kind, by what it is."""


def throw(scene: Scene, name: str) -> None:
    """Put it on every queue, where workers take it next."""
    for queue in QUEUES:
        scene.stack.redis("RPUSH", queue, stdin=GARBAGE[name]())
