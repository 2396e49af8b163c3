"""Post, read, list and cancel runs."""

import hashlib
import json
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Header, Query, Response
from pydantic import Field, ValidationError

from services.api.auth import BEARER, Caller, KeyedRoute
from services.api.dependencies import Deps, Store
from services.api.errors import (
    BODY_TOO_LARGE,
    CLAUDE_NOT_CONFIGURED,
    IDEMPOTENCY_CONFLICT,
    INTERNAL_ERROR,
    INVALID_REQUEST,
    NOT_CANCELLABLE,
    NOT_FOUND,
    QUEUE_FULL,
    RECORD_UNAVAILABLE,
    UNAUTHORIZED,
    UNKNOWN_PIPELINE,
    UNSUPPORTED_MEDIA_TYPE,
    InvalidRequestError,
    UnknownPipelineError,
)
from services.api.openapi import KEYED_PROBLEMS, problems
from services.api.pages import Name, PageQuery, known_cursor
from services.api.schemas import CreateRun, Run, RunPage
from services.api.validation import describe_validation
from services.core.errors import ClaudeNotConfiguredError
from services.core.runs import models
from services.core.runs.states import RunState
from services.core.telemetry import annotate, current_traceparent
from services.pipelines.definition import Pipeline

router = APIRouter(tags=["runs"], route_class=KeyedRoute, dependencies=[BEARER])

IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=255,
        pattern=r"^[!-~]+$",
        description="Repeat a POST safely: the same key and body give the same run again. 1 to 255 visible characters.",
        examples=["order-1742"],
    ),
]


class RunQuery(PageQuery):
    """Which runs to list."""

    state: RunState | None = None
    pipeline: Name | None = Field(default=None, examples=["outreach_email"])


_POST_PROBLEMS = problems(
    UNAUTHORIZED,
    BODY_TOO_LARGE,
    UNSUPPORTED_MEDIA_TYPE,
    INVALID_REQUEST,
    UNKNOWN_PIPELINE,
    IDEMPOTENCY_CONFLICT,
    QUEUE_FULL,
    INTERNAL_ERROR,
    RECORD_UNAVAILABLE,
    CLAUDE_NOT_CONFIGURED,
)
_LOCATION = {
    "headers": {
        "Location": {"description": "Where the run is.", "schema": {"type": "string"}},
    }
}


@router.post(
    "/v1/runs",
    status_code=202,
    operation_id="createRun",
    response_model=Run,
    responses=_POST_PROBLEMS | {202: _LOCATION},
)
async def create_run(
    body: CreateRun,
    caller: Caller,
    deps: Deps,
    response: Response,
    idempotency_key: IdempotencyKey = None,
) -> models.Run:
    """Accept a run. It is in the record when this returns; what happens to it is in the run and its events."""
    pipeline = _find_pipeline(deps.pipelines, body)
    _check_input(pipeline, body)
    if not deps.anthropic.is_configured:
        raise ClaudeNotConfiguredError
    run, is_new = await deps.store.accept_run(
        models.NewRun(
            key_id=caller.id,
            pipeline=pipeline.name,
            input=body.input,
            step_names=pipeline.step_names,
            metadata=body.metadata,
            priority=body.priority,
            budget_usd=body.budget_usd,
            idempotency_key=idempotency_key,
            request_hash=_hash_of(body) if idempotency_key else None,
            traceparent=current_traceparent(),
        )
    )
    annotate(run_id=run.id)
    if is_new:
        deps.publisher.hint(run.id)
    response.headers["Location"] = f"/v1/runs/{run.id}"
    return run


@router.get("/v1/runs", operation_id="listRuns", response_model=RunPage, responses=KEYED_PROBLEMS)
async def list_runs(
    query: Annotated[RunQuery, Query()], caller: Caller, store: Store
) -> models.Page[models.Run]:
    """List this key's runs, newest first."""
    with known_cursor():
        return await store.list_runs(caller.id, **query.model_dump())


@router.get(
    "/v1/runs/{run_id}",
    operation_id="getRun",
    response_model=Run,
    responses=KEYED_PROBLEMS | problems(NOT_FOUND),
)
async def get_run(run_id: UUID, caller: Caller, store: Store) -> models.Run:
    """Show one run."""
    return await store.get_run(caller.id, run_id)


@router.post(
    "/v1/runs/{run_id}/cancel",
    status_code=202,
    operation_id="cancelRun",
    response_model=Run,
    responses=KEYED_PROBLEMS | problems(NOT_FOUND, NOT_CANCELLABLE),
)
async def cancel_run(run_id: UUID, caller: Caller, store: Store) -> models.Run:
    """Cancel a queued or running run: no step starts any more, and a running call is cut off."""
    return await store.cancel_run(caller.id, run_id)


def _find_pipeline(pipelines: Any, body: CreateRun) -> Pipeline[Any]:
    pipeline: Pipeline[Any] | None = pipelines.get(body.pipeline)
    if pipeline is None:
        raise UnknownPipelineError(known=pipelines)
    return pipeline


def _check_input(pipeline: Pipeline[Any], body: CreateRun) -> None:
    """Check the input as the first step will; the record keeps it as it was sent."""
    try:
        pipeline.input_type.model_validate(body.input)
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False, include_input=False)
        below_input = [{**item, "loc": ("body", "input", *item["loc"])} for item in found]
        raise InvalidRequestError(
            describe_validation(below_input, body={"input": body.input})
        ) from error


def _hash_of(body: CreateRun) -> bytes:
    """SHA-256 of the request, whatever the order of its members and its white space."""
    canonical = json.dumps(body.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).digest()
