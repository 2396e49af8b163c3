"""Looking into the simulator and making it fail."""

import json
from collections.abc import AsyncIterator, Iterable
from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import StreamingResponse

from services.simulator.batches import BatchRules
from services.simulator.faults import FaultRule
from services.simulator.limits import Limits
from services.simulator.state import state_of

router = APIRouter(prefix="/admin", tags=["Simulator's own"])
ROWS_PER_PIECE = 1000


@router.put("/faults")
async def add_fault(rule: FaultRule, request: Request) -> list[FaultRule]:
    """Put a rule behind those in force; the first that applies to a call decides."""
    faults = state_of(request).faults
    faults.add(rule)
    return faults.rules


@router.get("/faults")
async def list_faults(request: Request) -> list[FaultRule]:
    """The rules in force; `count` is what is left of it."""
    return state_of(request).faults.rules


@router.delete("/faults")
async def clear_faults(request: Request) -> list[FaultRule]:
    """Take all rules back."""
    faults = state_of(request).faults
    faults.clear()
    return faults.rules


@router.put("/limits")
async def set_limits(limits: Limits, request: Request) -> dict[str, Any]:
    """Set the limits of a model, or of all others (`*`); their buckets are full again."""
    board = state_of(request).limits
    board.put(limits)
    return board.state()


@router.get("/limits")
async def read_limits(request: Request) -> dict[str, Any]:
    """The limits in force, and what each model has left of them."""
    return state_of(request).limits.state()


@router.delete("/limits")
async def clear_limits(request: Request) -> dict[str, Any]:
    """Go back to the limits of the settings, with full buckets."""
    board = state_of(request).limits
    board.clear()
    return board.state()


@router.get("/cache")
async def list_cached(request: Request) -> list[dict[str, Any]]:
    """The prefixes that are cached now, and how often each was read."""
    return state_of(request).cache.state()


@router.delete("/cache")
async def clear_cache(request: Request) -> list[dict[str, Any]]:
    """Forget all cached prefixes."""
    cache = state_of(request).cache
    cache.clear()
    return cache.state()


@router.put("/batches")
async def set_batch_rules(rules: BatchRules, request: Request) -> dict[str, Any]:
    """Say how batches go; how long they take holds for those under way as well."""
    board = state_of(request).batches
    board.put(rules)
    async with board.changed:
        board.changed.notify_all()
    return await list_batches(request)


@router.get("/batches")
async def list_batches(request: Request) -> dict[str, Any]:
    """The rules, and all batches, the newest first."""
    board = state_of(request).batches
    base_url = str(request.base_url)
    return {
        "rules": board.rules.model_dump(),
        "batches": [batch.describe(base_url) for batch in board.newest_first],
    }


@router.get("/requests")
async def list_requests(request: Request) -> list[dict[str, Any]]:
    """The last calls, oldest first."""
    return state_of(request).ledger.requests()


@router.get("/ledger")
async def read_ledger(request: Request) -> dict[str, Any]:
    """Sums over all calls: requests, tokens, how they ended, how many were open at once."""
    return state_of(request).ledger.totals()


@router.get("/calls")
async def list_calls(request: Request) -> StreamingResponse:
    """How often each run asked each prompt, and got a whole answer, since the last clear."""
    counts = map(asdict, state_of(request).ledger.calls)
    return StreamingResponse(_json_array(counts), media_type="application/json")


@router.get("/usage")
async def read_usage(request: Request, user_id: str | None = None) -> StreamingResponse:
    """The tokens of all calls since the last clear.

    `total` by kind (live, batch, broken, cancelled), `runs` by metadata.user_id, kind and model.
    """
    usage = state_of(request).ledger.usage
    pieces = _usage_pieces(usage.totals(), usage.rows(user_id))
    return StreamingResponse(pieces, media_type="application/json")


@router.delete("/requests")
async def clear_requests(request: Request) -> dict[str, Any]:
    """Forget the calls and their sums, but not those under way."""
    ledger = state_of(request).ledger
    ledger.clear()
    return ledger.totals()


async def _json_array(rows: Iterable[dict[str, Any]]) -> AsyncIterator[str]:
    """The rows as JSON, in pieces: a long list must not hold up the calls under way."""
    piece: list[str] = ["["]
    for number, row in enumerate(rows):
        piece.append(f"{',' if number else ''}\n{json.dumps(row)}")
        if len(piece) >= ROWS_PER_PIECE:
            yield "".join(piece)
            piece.clear()
    yield "".join([*piece, "\n]\n"])


async def _usage_pieces(
    totals: dict[str, dict[str, int]], rows: Iterable[dict[str, Any]]
) -> AsyncIterator[str]:
    yield f'{{"total": {json.dumps(totals)},\n"runs": '
    async for piece in _json_array(rows):
        yield piece
    yield "}\n"
