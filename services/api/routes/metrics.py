"""Figures for Prometheus. Open to all on the inside, like the health checks."""

import asyncio

from fastapi import APIRouter, Request
from fastapi.responses import Response
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from services.api.checks import read_limits, read_totals
from services.api.dependencies import Deps
from services.api.limit_metrics import LimitMetrics
from services.api.record_metrics import RecordMetrics

router = APIRouter(tags=["health"])

_TEXT = {
    "description": "Prometheus text, or OpenMetrics if the Accept header asks for it.",
    "content": {"text/plain": {"schema": {"type": "string"}}},
}


@router.get("/metrics", operation_id="getMetrics", response_class=Response, responses={200: _TEXT})
async def get_metrics(request: Request, deps: Deps) -> Response:
    """Figures of the record (the same from every process) and of HTTP (summed over this host's processes)."""
    registry = CollectorRegistry()
    totals, limits = await asyncio.gather(read_totals(deps.store), read_limits(deps.store))
    registry.register(RecordMetrics(totals))
    registry.register(LimitMetrics(limits))
    registry.register(request.app.state.http_metrics)
    encode, content_type = choose_encoder(request.headers.get("accept", ""))
    return Response(encode(registry), headers={"Content-Type": content_type})
