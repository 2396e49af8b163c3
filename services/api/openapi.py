"""The OpenAPI document: problems, examples, and what FastAPI leaves out."""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema

from services import __version__
from services.api.batch_schemas import CreateBatch
from services.api.errors import (
    INTERNAL_ERROR,
    INVALID_REQUEST,
    PROBLEM_MEDIA_TYPE,
    PROBLEM_TYPES,
    RECORD_FULL,
    RECORD_UNAVAILABLE,
    UNAUTHORIZED,
    ProblemType,
)
from services.api.schemas import Problem
from services.core.runs.states import EventType
from services.pipelines.definition import Pipeline

Responses = dict[int | str, dict[str, Any]]

_REF: Final = "#/components/schemas/{model}"
_INTRODUCTION: Final = """\
Durable, multi-step Claude pipelines as background jobs.

Post an input, get `202`; a worker runs the pipeline's steps; read, watch, cancel or replay the run.

* Send a key as `Authorization: Bearer psk_...`. A key sees only its own runs and emails.
* Times are RFC 3339 in UTC, ids are UUIDs of version 7, money is US dollars.
* Every error is `application/problem+json` (RFC 9457). `X-Request-Id` is in every answer, problem and log line.

| problem type | status | |
|---|---|---|
"""


# FastAPI describes the events of a stream with `itemSchema`, which OpenAPI has from 3.2 on.
def _event_stream(
    events: Iterable[str],
    examples: dict[str, dict[str, str]],
    *,
    id_meaning: str,
    required: list[str],
) -> dict[str, Any]:
    """A stream of events of some types."""
    return {
        "schema": {
            "type": "object",
            "description": "One event; the stream is a sequence of these in the format of Server-Sent Events.",
            "properties": {
                "id": {"type": "string", "pattern": "^[1-9][0-9]*$", "description": id_meaning},
                "event": {"type": "string", "enum": list(events)},
                "data": {"type": "string", "contentMediaType": "application/json"},
            },
            "required": required,
        },
        "examples": {name: {"value": event} for name, event in examples.items()},
    }


_EVENT_STREAMS: Final = {
    "/v1/runs/{run_id}/events": _event_stream(
        EventType,
        {
            "an event of the record": {
                "id": "3",
                "event": EventType.STEP_STARTED,
                "data": '{"step": "compose_email", "attempt": 1}',
            },
            "text": {
                "event": EventType.CLAUDE_DELTA,
                "data": '{"step": "compose_email", "attempt": 1, "call": 0, "offset": 5, "text": "Dr. Marsh"}',
            },
        },
        id_meaning="1, 2, 3, … within the run; a `claude.delta` has none.",
        required=["event", "data"],
    ),
    "/v1/batches/{batch_id}/events": _event_stream(
        ("batch.progress", "batch.finished"),
        {
            "progress": {
                "id": "3588760862746",
                "event": "batch.progress",
                "data": '{"counts": {"queued": 2, "running": 1, "succeeded": 1, "failed": 0, "cancelled": 0}, '
                '"progress": 0.25, "cost_usd": 0.0066, "eta_s": 12.5, "finished_at": null}',
            }
        },
        id_meaning="Grows with every state of the batch.",
        required=["id", "event", "data"],
    ),
}
TAGS: Final = [
    {"name": "runs", "description": "Post, read, watch, cancel and replay runs."},
    {"name": "batches", "description": "Many runs at once, and what came out as one file."},
    {"name": "dead letters", "description": "Failed runs, to look at and to replay together."},
    {"name": "pipelines", "description": "What can be run."},
    {"name": "usage", "description": "What a key spends."},
    {"name": "emails", "description": "Emails that runs wrote."},
    {"name": "health", "description": "For machines and operators; no key needed."},
]


def problems(*kinds: ProblemType) -> Responses:
    """Documents an operation's problems.

    Args:
        kinds: What may go wrong; several kinds may share a status.
    """
    responses: Responses = {}
    for kind in kinds:
        response = responses.setdefault(kind.status, _empty_response(kind))
        response["content"][PROBLEM_MEDIA_TYPE]["examples"][kind.name] = {"value": _example(kind)}
        if kind.retry_after_s is not None:
            response["headers"]["Retry-After"] = {
                "description": "Seconds after which trying again may help.",
                "schema": {"type": "integer", "minimum": 1},
            }
    return responses


def _empty_response(kind: ProblemType) -> dict[str, Any]:
    schema = {"$ref": _REF.format(model=Problem.__name__)}
    headers: dict[str, Any] = {}
    if kind is UNAUTHORIZED:
        headers["WWW-Authenticate"] = {"schema": {"type": "string"}}
    return {
        "description": kind.title,
        "headers": headers,
        "content": {PROBLEM_MEDIA_TYPE: {"schema": schema, "examples": {}}},
    }


def _example(kind: ProblemType) -> dict[str, Any]:
    example: dict[str, Any] = {
        "type": kind.uri,
        "title": kind.title,
        "status": kind.status,
        "detail": kind.detail or kind.title,
        "instance": "/v1/runs",
        "request_id": "0193588b2f6b7d3c8d2f4b8f0a1c2d3e",
    }
    if kind is INVALID_REQUEST:
        missing = {"in": "body", "field": "/input/template", "message": "Field required"}
        example["errors"] = [missing]
    return example


_KEYED: Final = (UNAUTHORIZED, INVALID_REQUEST, INTERNAL_ERROR, RECORD_UNAVAILABLE)
KEYED_PROBLEMS: Final = problems(*_KEYED)
"""What may go wrong wherever a key is needed."""


def write_problems(*kinds: ProblemType) -> Responses:
    """Documents the problems of an operation that needs a key and changes the record.

    Args:
        kinds: What else may go wrong.
    """
    return problems(*_KEYED, RECORD_FULL, *kinds)


def describe_api(app: FastAPI, pipelines: Mapping[str, Pipeline[Any]]) -> dict[str, Any]:
    """The OpenAPI 3.1 document of the app, with each pipeline's own example inputs.

    Args:
        app: The app with all its routes.
        pipelines: What can be run.
    """
    rows = (f"| `{kind.uri}` | {kind.status} | {kind.title} |\n" for kind in PROBLEM_TYPES)
    document = get_openapi(
        title="Penstock",
        version=__version__,
        description=_INTRODUCTION + "".join(rows),
        routes=app.routes,
        tags=TAGS,
    )
    _, unnamed = models_json_schema(
        [(Problem, "serialization"), (CreateBatch, "validation")], ref_template=_REF, by_alias=True
    )
    document["components"]["schemas"] |= unnamed["$defs"]
    for path, stream in _EVENT_STREAMS.items():
        watch = document["paths"][path]["get"]["responses"]["200"]
        watch["content"]["text/event-stream"] = stream
    body = document["paths"]["/v1/runs"]["post"]["requestBody"]["content"]["application/json"]
    body["examples"] = _run_examples(pipelines)
    return document


def _run_examples(pipelines: Mapping[str, Pipeline[Any]]) -> dict[str, Any]:
    return {
        f"{pipeline.name} {number}": {"value": {"pipeline": pipeline.name, "input": example}}
        for pipeline in pipelines.values()
        for number, example in enumerate(pipeline.input_examples, start=1)
    }
