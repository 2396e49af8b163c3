"""What strangers may write to Redis."""

import json
import pickle
from base64 import b64encode
from typing import Any
from uuid import uuid4

from services.core.queue.contracts import TaskName

SECRET = "sk-ant-api03-this-must-not-be-logged"


def message(
    task: object = TaskName.EXECUTE_RUN,
    *,
    body: object = ([], {}, {}),
    without: tuple[str, ...] = (),
    headers: dict[str, Any] | None = None,
    **fields: Any,
) -> dict[str, Any]:
    """A message as kombu would write it; `fields` overwrite, `without` leaves out."""
    task_id = str(uuid4())
    envelope = {
        "body": body if isinstance(body, str) else b64encode(json.dumps(body).encode()).decode(),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {
            "lang": "py",
            "task": task,
            "id": task_id,
            "root_id": task_id,
            **(headers or {}),
        },
        "properties": {
            "correlation_id": task_id,
            "delivery_mode": 2,
            "delivery_info": {"exchange": "", "routing_key": "runs"},
            "priority": 0,
            "body_encoding": "base64",
            "delivery_tag": task_id,
        },
    }
    properties = envelope["properties"]
    assert isinstance(properties, dict)
    for name in without:
        envelope.pop(name, None)
        properties.pop(name, None)
    return envelope | fields


def _with_properties(**properties: object) -> dict[str, Any]:
    envelope = message()
    envelope["properties"] |= properties
    return envelope


NO_MESSAGES: dict[str, bytes | str] = {
    "letters": "garbage " + SECRET,
    "empty": "",
    "bytes": b"\xff\x00\xfe",
    "pickle": pickle.dumps({"task": "runs.execute"}),
    "10 MB of letters": "x" * 10_000_000,
    "10 MB of JSON": json.dumps(message(body="x" * 10_000_000)),
    "deep JSON": "[" * 100_000,
    "number": "1",
    "huge number": "1" * 5000,
    "null": "null",
    "text": '"text"',
    "list": "[1, 2]",
    "empty object": "{}",
    "marked value": '{"__type__": "uuid", "__value__": 5}',
    "marked bytes": '{"__type__": "bytes", "__value__": 5}',
    "marked decimal": '{"__type__": "decimal", "__value__": "x"}',
}
"""Items of a list that are not even the envelope of a message."""

MESSAGES: dict[str, dict[str, Any]] = {
    "no headers": message(without=("headers",)),
    "no properties": message(without=("properties",)),
    "no body": message(without=("body",)),
    "no content type": message(without=("content-type",)),
    "no delivery tag": message(without=("delivery_tag",)),
    "numeric delivery tag": _with_properties(delivery_tag=7),
    "delivery tag is an object": _with_properties(delivery_tag={}),
    "delivery info is a list": _with_properties(delivery_info=[1]),
    "no delivery info": message(without=("delivery_info",)),
    "headers is a list": message() | {"headers": []},
    "properties is a list": message(properties=[]),
    "body is a list": message(body="!") | {"body": []},
    "pickle": message(**{"content-type": "application/x-python-serialize"}),
    "pickled body": message(body=b64encode(pickle.dumps([[], {}, {}])).decode())
    | {"content-type": "application/x-python-serialize", "content-encoding": "binary"},
    "yaml": message(**{"content-type": "application/x-yaml"}),
    "wrong base64": message(body="!"),
    "unknown body encoding": _with_properties(body_encoding="rot13"),
    "unknown charset": message(**{"content-encoding": "klingon"}),
    "unknown compression": message(headers={"compression": "application/x-magic"}),
    "compressed": message(headers={"compression": "application/x-gzip"}),
    "body is not UTF-8": message(body=b64encode(b"\xff\xfe").decode()),
    "body is not JSON": message(body=b64encode(b"{not json").decode()),
    "body is text": message(body="text".join('""')),
    "body is empty": message(body=[]),
    "body of nulls": message(body=[None, None, None]),
    "arguments are text": message(body=["x", "y", "z"]),
    "too many parts": message(body=[[], {}, {}, {}]),
    "run is no UUID": message(body=[[], {"run_id": "../../etc"}, {}]),
    "run is a number": message(TaskName.EXECUTE_ISOLATED_RUN, body=[[], {"run_id": 5}, {}]),
    "positional arguments": message(body=[[1, 2, 3], {"never": "heard"}, {}]),
    "isolated without run": message(TaskName.EXECUTE_ISOLATED_RUN),
    "task is null": message(None),
    "task is a list": message(["runs.execute"]),
    "task of Celery": message("celery.map", body=[[{"task": TaskName.SWEEP_RUNS}, [1]], {}, {}]),
    "no task at all": message() | {"headers": {}},
    "protocol 1": message(body={"task": TaskName.EXECUTE_RUN, "id": "1", "args": [], "kwargs": {}})
    | {"headers": {}},
    "id is an object": message(headers={"id": {}}),
    "id is very long": message(headers={"id": "x" * 10_000}),
    "retries is text": message(headers={"retries": "many"}),
    "eta is nonsense": message(headers={"eta": "tomorrow"}),
    "eta is a number": message(headers={"eta": 1}),
    "expires is nonsense": message(headers={"expires": "never"}),
    "time limit is text": message(headers={"timelimit": "x"}),
    "stamps are text": message(headers={"stamps": "x", "stamped_headers": 5}),
    "callbacks in headers": message(
        headers={"callbacks": [{"task": TaskName.SWEEP_RUNS}], "chain": 5}
    ),
    "args in headers": message(headers={"args": 5, "kwargs": "x", "is_eager": 1, "hostname": []}),
    "group is text": message(headers={"group": {}, "group_index": "x"}),
    "callbacks": message(body=[[], {}, {"callbacks": [{"task": TaskName.SWEEP_RUNS}]}]),
    "error callbacks": message(body=[[], {}, {"errbacks": [{"task": TaskName.SWEEP_RUNS}]}]),
}
"""Messages with something wrong about them."""


def everything() -> list[bytes | str]:
    """All of it."""
    return [*NO_MESSAGES.values(), *(json.dumps(each) for each in MESSAGES.values())]
