"""Post many runs at once, watch them together, and get what came out as one file."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AbstractContextManager
from datetime import datetime
from typing import Annotated, Any, ClassVar, Final
from uuid import UUID

from fastapi import APIRouter, Depends, Header, Query, Request, Response
from fastapi.responses import StreamingResponse
from fastapi.sse import ServerSentEvent

from services.api import batch_schemas as schemas
from services.api.admission import find_pipeline, require_claude
from services.api.auth import BEARER, JSON, Caller, KeyedRoute
from services.api.batch_hub import BatchHub
from services.api.batch_request import CSV, MEDIA_TYPES, NDJSON, hash_request, read_batch
from services.api.batch_results import ResultFormat, write_csv, write_ndjson
from services.api.batch_room import BatchRoom
from services.api.batch_rows import make_chunks
from services.api.batch_schemas import (
    SHOWN_ERRORS,
    AcceptedBatch,
    Batch,
    BatchPage,
    BatchQuery,
    BatchState,
    CreateBatch,
    Retried,
    RowErrorPage,
)
from services.api.dependencies import Deps, Store
from services.api.errors import (
    BODY_TOO_LARGE,
    BODY_TOO_SLOW,
    CLAUDE_NOT_CONFIGURED,
    IDEMPOTENCY_CONFLICT,
    NOT_FOUND,
    QUEUE_FULL,
    TOO_BUSY,
    UNKNOWN_PIPELINE,
    UNSUPPORTED_MEDIA_TYPE,
    StreamEndedError,
)
from services.api.event_stream import EventStream
from services.api.openapi import KEYED_PROBLEMS, problems, write_problems
from services.api.pages import PageQuery, known_cursor
from services.api.routes.runs import IdempotencyKey
from services.core.runs import models
from services.core.runs.batch_models import Batch as StoredBatch
from services.core.runs.batch_models import BatchProgress, NewBatch, RowError
from services.core.telemetry import current_traceparent

PATH: Final = "/v1/batches"
MAX_EVENT_ID: Final = 2**53


class _BatchRoute(KeyedRoute):
    """Takes rows in several formats, and reads them itself."""

    media_types: ClassVar = MEDIA_TYPES

    @property
    def has_body(self) -> bool:
        """FastAPI knows nothing of it."""
        return True

    def make_room(self, request: Request) -> AbstractContextManager[None]:
        """One of a few places: bodies are large."""
        room: BatchRoom = request.app.state.batch_room
        return room.take()


_posting = APIRouter(tags=["batches"], route_class=_BatchRoute, dependencies=[BEARER])
router = APIRouter(tags=["batches"], route_class=KeyedRoute, dependencies=[BEARER])

_LOCATION = {
    "headers": {"Location": {"description": "Where the batch is.", "schema": {"type": "string"}}}
}
_BODY: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "content": {
            JSON: {"schema": {"$ref": f"#/components/schemas/{CreateBatch.__name__}"}},
            NDJSON: {
                "schema": {"type": "string", "description": "An input per line."},
            },
            CSV: {
                "schema": {"type": "string", "description": "A header, then an input per row."},
                "example": "recipient.name,template\r\nDr. Elena Marsh,Dear {{name}}\r\n",
            },
        },
    }
}


@_posting.post(
    PATH,
    status_code=202,
    operation_id="createBatch",
    responses=write_problems(
        BODY_TOO_LARGE,
        BODY_TOO_SLOW,
        UNSUPPORTED_MEDIA_TYPE,
        UNKNOWN_PIPELINE,
        IDEMPOTENCY_CONFLICT,
        QUEUE_FULL,
        CLAUDE_NOT_CONFIGURED,
        TOO_BUSY,
    )
    | {202: _LOCATION},
    openapi_extra=_BODY,
)
async def create_batch(
    request: Request,
    query: Annotated[BatchQuery, Query()],
    caller: Caller,
    deps: Deps,
    response: Response,
    idempotency_key: IdempotencyKey = None,
) -> AcceptedBatch:
    """Accept a run for each of up to 10,000 inputs, all in one transaction.

    The body is a JSON object, or NDJSON or CSV with the other members as query parameters. Bad rows are reported; good
    ones run. A batch without a good row is refused.
    """
    with (
        request.state.deadline.paused()
    ):  # the store bounds the whole; ten thousand rows take their time
        members, rows = await read_batch(request, query, deps)
        pipeline = find_pipeline(deps, members.pipeline)
        require_claude(deps)
        new = NewBatch(
            key_id=caller.id,
            pipeline=pipeline.name,
            step_names=pipeline.step_names,
            mode=members.mode,
            metadata=members.metadata,
            priority=members.priority,
            budget_usd=members.budget_usd,
            idempotency_key=idempotency_key,
            request_hash=await hash_request(request) if idempotency_key else None,
            traceparent=current_traceparent(),
        )
        record = deps.store.batches
        accepted = await record.accept_batch(new, make_chunks(rows, pipeline.input_type))
        for run_id in accepted.first_run_ids:
            deps.publisher.hint(run_id)
        batch = await record.get_batch(caller.id, accepted.batch_id)
        errors = await record.list_errors(caller.id, batch.id, limit=SHOWN_ERRORS)
    response.headers["Location"] = f"{PATH}/{batch.id}"
    return _accepted(batch, errors)


router.include_router(_posting)


@router.get(PATH, operation_id="listBatches", response_model=BatchPage, responses=KEYED_PROBLEMS)
async def list_batches(
    query: Annotated[PageQuery, Query()], caller: Caller, store: Store
) -> models.Page[StoredBatch]:
    """List this key's batches, newest first; how far one is, it says itself."""
    with known_cursor():
        return await store.batches.list_batches(caller.id, **query.model_dump())


async def find_batch(batch_id: UUID, caller: Caller, store: Store) -> BatchProgress:
    """The batch, if it is the caller's."""
    return await store.batches.get_batch(caller.id, batch_id)


Found = Annotated[BatchProgress, Depends(find_batch)]


@router.get(
    f"{PATH}/{{batch_id}}",
    operation_id="getBatch",
    response_model=Batch,
    responses=KEYED_PROBLEMS | problems(NOT_FOUND),
)
async def get_batch(batch: Found) -> BatchProgress:
    """Show one batch and how far it is."""
    return batch


@router.get(
    f"{PATH}/{{batch_id}}/errors",
    operation_id="listBatchErrors",
    response_model=RowErrorPage,
    responses=KEYED_PROBLEMS | problems(NOT_FOUND),
)
async def list_batch_errors(
    batch_id: UUID, query: Annotated[PageQuery, Query()], caller: Caller, store: Store
) -> models.Page[RowError]:
    """List what was wrong with a batch's bad rows, in their order."""
    with known_cursor():
        return await store.batches.list_errors(caller.id, batch_id, **query.model_dump())


@router.post(
    f"{PATH}/{{batch_id}}/cancel",
    status_code=202,
    operation_id="cancelBatch",
    response_model=Batch,
    responses=write_problems(NOT_FOUND),
)
async def cancel_batch(
    request: Request, batch_id: UUID, caller: Caller, store: Store
) -> BatchProgress:
    """Cancel all runs of a batch that have not ended; those that have stay as they are."""
    with request.state.deadline.paused():  # as many as there are take as long as they take
        await store.batches.cancel_batch(caller.id, batch_id)
    return await store.batches.get_batch(caller.id, batch_id)


@router.post(
    f"{PATH}/{{batch_id}}/retry",
    status_code=202,
    operation_id="retryBatch",
    responses=write_problems(NOT_FOUND, QUEUE_FULL, CLAUDE_NOT_CONFIGURED),
)
async def retry_batch(request: Request, batch: Found, caller: Caller, deps: Deps) -> Retried:
    """Let the failed runs of a batch go on, each from its first step that is not completed.

    As for dead letters: should it end with 503, or with fewer runs than expected because the queue is full, the same
    request again retries the rest.
    """
    require_claude(deps)
    with request.state.deadline.paused():
        replayed = await deps.store.replay_failed_runs(
            caller.id,
            batch_id=batch.id,
            shapes={name: pipeline.step_names for name, pipeline in deps.pipelines.items()},
        )
    for due in replayed:
        deps.publisher.hint(due.run_id, is_isolated=due.is_isolated)
    return Retried(replayed=len(replayed))


@router.get(
    f"{PATH}/{{batch_id}}/results",
    operation_id="getBatchResults",
    response_class=StreamingResponse,
    responses=KEYED_PROBLEMS
    | problems(NOT_FOUND)
    | {
        200: {
            "description": "A line or row for each run, in the order of the rows.",
            "content": {
                NDJSON: {"schema": {"type": "string"}},
                CSV: {"schema": {"type": "string"}},
            },
        }
    },
)
async def get_batch_results(
    batch: Found,
    deps: Deps,
    format: Annotated[  # noqa: A002 - the parameter's name
        ResultFormat, Query(description="How to write them.")
    ] = ResultFormat.NDJSON,
) -> StreamingResponse:
    """Get what became of each row that became a run, also while others go on.

    NDJSON has `{"row", "run_id", "state", "output", "failure", "cost_usd"}` per line. CSV has a column for each member
    of the output; what is nested is JSON, and text that a spreadsheet would take for a formula has a `'` before it.
    """
    record = deps.store.batches
    if format is ResultFormat.CSV:
        pipeline = deps.pipelines.get(batch.pipeline)
        names = list(pipeline.output_type.model_fields) if pipeline else []
        lines = write_csv(record, batch.id, names)
    else:
        lines = write_ndjson(record, batch.id)
    disposition = f'attachment; filename="batch-{batch.id}.{format}"'
    return StreamingResponse(
        lines, media_type=format.media_type, headers={"Content-Disposition": disposition}
    )


async def find_open_batch(
    batch: Found,
    last_event_id: Annotated[
        int | None,
        Header(
            alias="Last-Event-ID",
            ge=0,
            le=MAX_EVENT_ID,
            description="The last `id` that came; sent by EventSource by itself.",
        ),
    ] = None,
) -> BatchProgress:
    """The batch, unless the client has seen its end.

    Raises:
        StreamEndedError: It has.
    """
    if batch.finished_at is not None and _is_end(last_event_id or 0, since=batch.finished_at):
        raise StreamEndedError
    return batch


@router.get(
    f"{PATH}/{{batch_id}}/events",
    operation_id="watchBatch",
    status_code=200,
    response_class=EventStream,
    responses=KEYED_PROBLEMS
    | problems(NOT_FOUND)
    | {204: {"description": "The batch has ended and the client has seen its end."}},
)
async def watch_batch(
    request: Request, batch: Annotated[BatchProgress, Depends(find_open_batch)]
) -> EventStream:
    """Stream how far a batch is: `batch.progress` now and at each change, `batch.finished` at the end.

    `id` grows; `data` is how far the batch is, as in `GET /v1/batches/{id}`. Who reconnects gets the present state at
    once. The stream ends with `batch.finished`, or earlier when the server stops.
    """
    hub: BatchHub = request.app.state.batch_hub
    return EventStream(_encode(hub.watch(batch)))


async def _encode(states: AsyncIterator[BatchProgress]) -> AsyncGenerator[ServerSentEvent]:
    async for state in states:
        yield ServerSentEvent(
            id=str(event_id(state)),
            event="batch.progress" if state.finished_at is None else "batch.finished",
            raw_data=BatchState.model_validate(state).model_dump_json(),
        )


def event_id(state: BatchProgress) -> int:
    """The id of an event: the record's time, whichever process tells it; odd for the end."""
    if state.finished_at is None:
        return _milliseconds(state.at) * 2
    return _milliseconds(max(state.at, state.finished_at)) * 2 + 1


def _is_end(event: int, *, since: datetime) -> bool:
    """Whether an id is that of an end, and of the last one."""
    return event % 2 == 1 and event >= _milliseconds(since) * 2


def _milliseconds(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)


def _accepted(batch: BatchProgress, errors: models.Page[RowError]) -> AcceptedBatch:
    shown = [schemas.RowError.model_validate(error) for error in errors.items]
    return AcceptedBatch(**Batch.model_validate(batch).model_dump(), errors=shown)
