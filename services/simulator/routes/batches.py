"""The Message Batches API."""

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse

from services.simulator.batch_pages import PageQuery, find_page
from services.simulator.batch_processing import process_batch
from services.simulator.batches import Batch, BatchBody
from services.simulator.errors import InvalidRequestError
from services.simulator.fault_errors import error_of
from services.simulator.faults import Fault, Place
from services.simulator.lost_answer import LOSING, LostAnswer
from services.simulator.reading import check_key, read_body
from services.simulator.state import State, state_of

router = APIRouter(
    prefix="/v1/messages/batches",
    tags=["Message Batches API (simulated)"],
    dependencies=[Depends(check_key)],
)
LINES_PER_PIECE = 100


@router.post("")
async def create_batch(request: Request) -> Response:
    """Take a batch; it is worked on from now on."""
    state = state_of(request)
    max_bytes = state.settings.max_batch_bytes
    body = await read_body(request, BatchBody, max_bytes=max_bytes)
    rule = state.faults.rule_for("", request.headers, place=Place.BATCH_CREATE)
    error = error_of(rule)
    if error is not None:
        raise error
    batch = state.batches.add(body.requests)
    _start(batch, state)
    made = JSONResponse(batch.describe(str(request.base_url)))
    return LostAnswer(bytes(made.body), rule.fault) if rule.fault in LOSING else made


@router.get("")
async def list_batches(query: Annotated[PageQuery, Query()], request: Request) -> dict[str, Any]:
    """A page of batches, the newest first."""
    batches = state_of(request).batches.newest_first
    return find_page(batches, query, str(request.base_url))


@router.get("/{batch_id}")
async def read_batch(batch_id: str, request: Request) -> dict[str, Any]:
    """How far a batch is."""
    return state_of(request).batches.get(batch_id).describe(str(request.base_url))


@router.get("/{batch_id}/results")
async def read_results(batch_id: str, request: Request) -> Response:
    """What came of its requests, a line for each, in no order."""
    state = state_of(request)
    batch = state.batches.get(batch_id)
    if batch.ended_at is None:
        raise InvalidRequestError(f"Batch {batch_id} has not ended: it has no results yet")
    rule = state.faults.rule_for("", request.headers, place=Place.BATCH_RESULTS)
    error = error_of(rule)
    if error is not None:
        raise error
    if rule.fault in LOSING:
        return LostAnswer(b"".join(batch.results), rule.fault)
    is_truncated = rule.fault is Fault.TRUNCATED_STREAM
    lines = batch.results[: batch.size // 2] if is_truncated else batch.results
    return StreamingResponse(_pieces(lines), media_type="application/x-jsonl")


@router.post("/{batch_id}/cancel")
async def cancel_batch(batch_id: str, request: Request) -> dict[str, Any]:
    """Leave out what is not done yet; the batch ends soon after."""
    board = state_of(request).batches
    batch = board.get(batch_id)
    batch.cancel()
    async with board.changed:
        board.changed.notify_all()
    return batch.describe(str(request.base_url))


@router.delete("/{batch_id}")
async def delete_batch(batch_id: str, request: Request) -> dict[str, str]:
    """Forget a batch that has ended, and its results."""
    state_of(request).batches.delete(batch_id)
    return {"id": batch_id, "type": "message_batch_deleted"}


def _start(batch: Batch, state: State) -> None:
    task = asyncio.create_task(process_batch(batch, state))
    # The loop keeps only weak references.
    state.tasks.add(task)
    task.add_done_callback(state.tasks.discard)


async def _pieces(lines: list[bytes]) -> AsyncIterator[bytes]:
    for start in range(0, len(lines), LINES_PER_PIECE):
        yield b"".join(lines[start : start + LINES_PER_PIECE])
