"""Post, read, list, cancel and replay runs."""

from typing import Annotated, Any, Final
from uuid import UUID

from fastapi import APIRouter, Body, Header, Query, Request, Response
from pydantic import Field

from services.api import run_posts
from services.api.admission import check_input, find_pipeline, require_claude
from services.api.auth import BEARER, JSON, Caller, KeyedRoute, get_caller
from services.api.dependencies import Deps, Store, get_dependencies
from services.api.errors import (
    BODY_TOO_LARGE,
    BODY_TOO_SLOW,
    CLAUDE_NOT_CONFIGURED,
    IDEMPOTENCY_CONFLICT,
    NOT_CANCELLABLE,
    NOT_FOUND,
    NOT_REPLAYABLE,
    QUEUE_FULL,
    UNKNOWN_PIPELINE,
    UNSUPPORTED_MEDIA_TYPE,
    InvalidRequestError,
)
from services.api.openapi import KEYED_PROBLEMS, problems, write_problems
from services.api.pages import Name, PageQuery, known_cursor
from services.api.schemas import (
    INPUT_EXAMPLE,
    CreateRun,
    PastAttempt,
    ReplayRun,
    Run,
    RunHistory,
    RunPage,
)
from services.api.validation import FieldError
from services.core.errors import ReplayStepError
from services.core.runs import models
from services.core.runs.states import FailureReason, RunState
from services.pipelines.definition import Pipeline

router = APIRouter(tags=["runs"], route_class=KeyedRoute, dependencies=[BEARER])

IDEMPOTENCY_HEADER: Final = "Idempotency-Key"
IdempotencyKey = Annotated[
    str | None,
    Header(
        alias=IDEMPOTENCY_HEADER,
        **run_posts.KEY_FORM,
        description="Repeat a POST safely: the same key and body give the same run again. 1 to 255 visible characters.",
        examples=["order-1742"],
    ),
]


class RunQuery(PageQuery):
    """Which runs to list."""

    state: RunState | None = None
    pipeline: Name | None = Field(default=None, examples=["outreach_email"])
    batch_id: UUID | None = None


_BODY_KINDS = (
    BODY_TOO_LARGE,
    BODY_TOO_SLOW,
    UNSUPPORTED_MEDIA_TYPE,
    UNKNOWN_PIPELINE,
    QUEUE_FULL,
    CLAUDE_NOT_CONFIGURED,
)
_REPLAY_EXAMPLES: dict[str, Any] = {
    "from where it failed": {"value": {}},
    "with a higher budget": {"value": {"budget_usd": 0.5}},
    "from a step": {"value": {"from_step": "compose_email"}},
    "with another input": {"value": {"from_step": "parse_template", "input": INPUT_EXAMPLE}},
}
_LOCATION = {
    "headers": {
        "Location": {"description": "Where the run is.", "schema": {"type": "string"}},
    }
}


class _CreateRunRoute(KeyedRoute):
    """Accepts at once what is plainly right. The rest goes FastAPI's way, which tells what is wrong with it.

    That way takes longer than everything else that an accepted run costs this process.
    """

    async def answer_at_once(self, request: Request) -> Response | None:
        """As create_run."""
        deps = await get_dependencies(request)
        caller, keys = await get_caller(request), request.headers.getlist(IDEMPOTENCY_HEADER)
        new = run_posts.read_plain_run(deps, caller.id, await request.body(), keys)
        if new is None:
            return None
        return _accepted(*await run_posts.accept(deps, new))


async def create_run(
    body: CreateRun,
    deps: Deps,
    caller: Caller,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Accept a run. It is in the record when this returns; what happens to it is in the run and its events."""
    new = run_posts.new_run(deps, caller.id, body, idempotency_key)
    return _accepted(*await run_posts.accept(deps, new))


def _accepted(path: str, content: bytes) -> Response:
    return Response(content, 202, {"Location": path}, JSON)


router.add_api_route(
    run_posts.PATH,
    create_run,
    methods=["POST"],
    route_class_override=_CreateRunRoute,
    status_code=202,
    operation_id="createRun",
    response_model=Run,
    responses=write_problems(*_BODY_KINDS, IDEMPOTENCY_CONFLICT) | {202: _LOCATION},
)


CREATE_RUN: Final = next(route for route in router.routes if isinstance(route, _CreateRunRoute))
"""For what answers without it, but in its name."""


@router.get(
    run_posts.PATH, operation_id="listRuns", response_model=RunPage, responses=KEYED_PROBLEMS
)
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
    responses=write_problems(NOT_FOUND, NOT_CANCELLABLE),
)
async def cancel_run(run_id: UUID, caller: Caller, store: Store) -> models.Run:
    """Cancel a queued or running run: no step starts any more, and a running call is cut off."""
    return await store.cancel_run(caller.id, run_id)


@router.post(
    "/v1/runs/{run_id}/replay",
    status_code=202,
    operation_id="replayRun",
    response_model=Run,
    responses=write_problems(*_BODY_KINDS, NOT_FOUND, NOT_REPLAYABLE),
)
async def replay_run(
    run_id: UUID,
    caller: Caller,
    deps: Deps,
    body: Annotated[ReplayRun | None, Body(openapi_examples=_REPLAY_EXAMPLES)] = None,
) -> models.Run:
    """Let a failed or cancelled run go on as a new attempt of the same run; completed steps are not repeated.

    It takes the steps that its pipeline has today, and keeps its events, costs and history.
    """
    wish = body or ReplayRun()
    past = await deps.store.get_run(caller.id, run_id)
    pipeline = find_pipeline(deps, past.pipeline)
    _check_replay(pipeline, wish)
    require_claude(deps)
    try:
        run = await deps.store.replay_run(
            caller.id,
            run_id,
            step_names=pipeline.step_names,
            from_step=wish.from_step,
            input=wish.input,
            budget_usd=wish.budget_usd,
        )
    except ReplayStepError as error:
        raise InvalidRequestError([FieldError("body", "/from_step", str(error))]) from error
    has_crashed = past.failure is not None and past.failure.reason is FailureReason.CRASHED
    deps.publisher.hint(run.id, is_isolated=has_crashed)
    return run


@router.get(
    "/v1/runs/{run_id}/history",
    operation_id="getRunHistory",
    responses=KEYED_PROBLEMS | problems(NOT_FOUND),
)
async def get_run_history(run_id: UUID, caller: Caller, store: Store) -> RunHistory:
    """Show what a run was before each of its replays."""
    attempts = await store.list_history(caller.id, run_id)
    return RunHistory(items=[PastAttempt.model_validate(attempt) for attempt in attempts])


def _check_replay(pipeline: Pipeline[Any], wish: ReplayRun) -> None:
    """Refuse what no run of the pipeline could be replayed with; the store knows its checkpoints."""
    names = pipeline.step_names
    if wish.from_step not in (None, *names):
        message = f"The pipeline has no such step; it has {', '.join(names)}"
        raise InvalidRequestError([FieldError("body", "/from_step", message)])
    if wish.input is None:
        return
    if wish.from_step not in (None, names[0]):
        message = f"Another input counts from the first step on, which is {names[0]}"
        raise InvalidRequestError([FieldError("body", "/input", message)])
    check_input(pipeline, wish.input)
