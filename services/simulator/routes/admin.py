"""Looking into the simulator and making it fail."""

import json
from collections.abc import AsyncIterator
from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import StreamingResponse

from services.simulator.call_counts import CallCounts
from services.simulator.faults import FaultRule
from services.simulator.state import state_of

router = APIRouter(prefix="/admin", tags=["Simulator's own"])
CALLS_PER_PIECE = 1000


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
    counts = state_of(request).ledger.calls
    return StreamingResponse(_json_array(counts), media_type="application/json")


@router.delete("/requests")
async def clear_requests(request: Request) -> dict[str, Any]:
    """Forget the calls and their sums, but not those under way."""
    ledger = state_of(request).ledger
    ledger.clear()
    return ledger.totals()


async def _json_array(counts: CallCounts) -> AsyncIterator[str]:
    """The counts as JSON, in pieces: a long list must not hold up the calls under way."""
    piece: list[str] = ["["]
    for number, count in enumerate(counts):
        piece.append(f"{',' if number else ''}\n{json.dumps(asdict(count))}")
        if len(piece) >= CALLS_PER_PIECE:
            yield "".join(piece)
            piece.clear()
    yield "".join([*piece, "\n]\n"])
