"""Watch a run live: Server-Sent Events that resume where a client left off."""

import json
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import asdict
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Header, Query, Request
from fastapi.sse import ServerSentEvent

from services.api.auth import BEARER, Caller, KeyedRoute
from services.api.dependencies import Store
from services.api.errors import (
    NOT_FOUND,
    InvalidRequestError,
    StreamEndedError,
)
from services.api.event_hub import EventHub
from services.api.event_stream import EventStream
from services.api.openapi import KEYED_PROBLEMS, problems
from services.api.validation import FieldError
from services.api.watching import Delta
from services.core.runs.models import Event, Run
from services.core.runs.states import FINAL_EVENTS, EventType
from services.core.runs.store import RunStore

MAX_SEQ = 2**31 - 1

router = APIRouter(tags=["runs"], route_class=KeyedRoute, dependencies=[BEARER])


async def find_run(run_id: UUID, caller: Caller, store: Store) -> Run:
    """The run, if it is the caller's."""
    return await store.get_run(caller.id, run_id)


async def find_position(
    run: Annotated[Run, Depends(find_run)],
    store: Store,
    last_event_id: Annotated[
        int | None,
        Header(
            alias="Last-Event-ID",
            ge=0,
            le=MAX_SEQ,
            description="The last `id` that came; sent by EventSource by itself.",
        ),
    ] = None,
    after: Annotated[
        int, Query(ge=0, le=MAX_SEQ, description="The same for clients that cannot set headers.")
    ] = 0,
) -> int:
    """The seq after which to go on.

    Raises:
        InvalidRequestError: The run has no such event, so nothing could ever follow it.
        StreamEndedError: The run has ended and nothing follows.
    """
    position = after if last_event_id is None else last_event_id
    if position:
        await _check_position(store, run, position, is_header=last_event_id is not None)
    return position


async def _check_position(store: RunStore, run: Run, position: int, *, is_header: bool) -> None:
    known = await store.list_events({run.id: position - 1}, limit=2)
    if not known or known[0].seq != position:
        place, field = ("header", "/Last-Event-ID") if is_header else ("query", "/after")
        raise InvalidRequestError([FieldError(place, field, "The run has no such event")])
    # The event tells, not the run: that was read before and may have ended since.
    if len(known) == 1 and known[0].type in FINAL_EVENTS:
        raise StreamEndedError


@router.get(
    "/v1/runs/{run_id}/events",
    operation_id="watchRun",
    status_code=200,
    response_class=EventStream,
    responses=KEYED_PROBLEMS
    | problems(NOT_FOUND)
    | {204: {"description": "The run has ended and nothing follows Last-Event-ID."}},
)
async def watch_run(
    request: Request,
    run: Annotated[Run, Depends(find_run)],
    after: Annotated[int, Depends(find_position)],
) -> EventStream:
    """Stream a run's events: `id` counts 1, 2, 3, …, `event` is the type, `data` is JSON.

    The stream ends after a final event (`run.succeeded`, `run.failed`, `run.cancelled`) that nothing follows, or
    earlier when the server stops: reconnect with `Last-Event-ID` and nothing is missed or repeated. A replayed run
    goes on in the same sequence.

    `claude.delta` has no `id`: it is a piece of an answer that is being written, {"step", "attempt", "call", "offset",
    "text"}. `call` tells calls at the same time apart. `offset` counts the characters of that call's text that come
    before; with 0 the text begins anew, as it does for each client that connects: it gets the text so far, and the
    pieces after it. Deltas are best effort, and the output of a step is in the run.
    """
    hub: EventHub = request.app.state.event_hub
    return EventStream(_encode(hub.watch(run.id, after=after)))


async def _encode(items: AsyncIterator[Event | Delta]) -> AsyncGenerator[ServerSentEvent]:
    async for item in items:
        if isinstance(item, Delta):
            # No id: a client comes back with that of the last event of the record.
            text = json.dumps(asdict(item))
            yield ServerSentEvent(event=EventType.CLAUDE_DELTA, raw_data=text)
        else:
            data = json.dumps(item.data)
            yield ServerSentEvent(id=str(item.seq), event=item.type, raw_data=data)
