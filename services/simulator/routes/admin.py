"""Looking into the simulator and making it fail."""

from typing import Any

from fastapi import APIRouter, Request

from services.simulator.faults import FaultRule
from services.simulator.state import state_of

router = APIRouter(prefix="/admin", tags=["Simulator's own"])


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


@router.delete("/requests")
async def clear_requests(request: Request) -> dict[str, Any]:
    """Forget the calls and their sums, but not those under way."""
    ledger = state_of(request).ledger
    ledger.clear()
    return ledger.totals()
