"""Failed runs, kept with their reasons: look at them, and replay many at once."""

from typing import Annotated, Any

from fastapi import APIRouter, Body, Query, Request
from pydantic import Field

from services.api.admission import find_pipeline, require_claude
from services.api.auth import BEARER, Caller, KeyedRoute
from services.api.dependencies import Deps, Store
from services.api.errors import (
    BODY_TOO_LARGE,
    BODY_TOO_SLOW,
    CLAUDE_NOT_CONFIGURED,
    QUEUE_FULL,
    UNKNOWN_PIPELINE,
    UNSUPPORTED_MEDIA_TYPE,
)
from services.api.openapi import KEYED_PROBLEMS, write_problems
from services.api.pages import Name, PageQuery, known_cursor
from services.api.schemas import RUN_ID_EXAMPLE, ReplayDeadLetters, Replayed, RunPage
from services.core.runs import models
from services.core.runs.states import FailureReason

router = APIRouter(tags=["dead letters"], route_class=KeyedRoute, dependencies=[BEARER])

_REPLAY_EXAMPLES: dict[str, Any] = {
    "all that crashed": {"value": {"reason": "crashed"}},
    "all of a pipeline": {"value": {"pipeline": "outreach_email"}},
    "some": {"value": {"ids": [RUN_ID_EXAMPLE]}},
}


class DeadLetterQuery(PageQuery):
    """Which dead letters to list."""

    pipeline: Name | None = Field(default=None, examples=["outreach_email"])
    reason: FailureReason | None = None


@router.get(
    "/v1/dead-letters",
    operation_id="listDeadLetters",
    response_model=RunPage,
    responses=KEYED_PROBLEMS,
)
async def list_dead_letters(
    query: Annotated[DeadLetterQuery, Query()], caller: Caller, store: Store
) -> models.Page[models.Run]:
    """List this key's failed runs, newest first."""
    with known_cursor():
        return await store.list_dead_letters(caller.id, **query.model_dump())


@router.post(
    "/v1/dead-letters/replay",
    status_code=202,
    operation_id="replayDeadLetters",
    responses=write_problems(
        BODY_TOO_LARGE,
        BODY_TOO_SLOW,
        UNSUPPORTED_MEDIA_TYPE,
        UNKNOWN_PIPELINE,
        QUEUE_FULL,
        CLAUDE_NOT_CONFIGURED,
    ),
)
async def replay_dead_letters(
    request: Request,
    body: Annotated[ReplayDeadLetters, Body(openapi_examples=_REPLAY_EXAMPLES)],
    caller: Caller,
    deps: Deps,
) -> Replayed:
    """Let failed runs go on, each from its first step that is not completed.

    Runs that fail while this works are left alone. It works in batches: should it end with 503, or with fewer runs than
    expected because the queue is full, the same request again replays the rest.
    """
    if body.pipeline is not None:
        find_pipeline(deps, body.pipeline)
    require_claude(deps)
    with request.state.deadline.paused():  # as many as there are take as long as they take
        replayed = await deps.store.replay_failed_runs(
            caller.id,
            ids=body.ids,
            pipeline=body.pipeline,
            reason=body.reason,
            shapes={name: pipeline.step_names for name, pipeline in deps.pipelines.items()},
        )
    for due in replayed:
        deps.publisher.hint(due.run_id, is_isolated=due.is_isolated)
    return Replayed(replayed=len(replayed), ids=[due.run_id for due in replayed])
