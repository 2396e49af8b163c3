"""The Claude simulator: for machines without a key or a network. It is not Claude."""

import uuid

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from config.loading import load
from config.simulator import SimulatorSettings
from services.core import telemetry
from services.simulator.batches import BatchBoard
from services.simulator.errors import ApiError, InvalidRequestError
from services.simulator.faults import FaultBoard
from services.simulator.ledger import Ledger
from services.simulator.limits import LimitBoard, default_limits
from services.simulator.routes import admin, batches, messages, samples
from services.simulator.state import State

TITLE = "Claude simulator (not Claude)"
ROOT_PAGE = f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{TITLE}</title></head><body>
<h1>{TITLE}</h1>
<p>This server speaks the protocol of Claude's Messages API and answers by rule. No model is
involved: what it says is taken from the prompt that it is given, and is good for tests only.</p>
<ul>
<li><code>POST /v1/messages</code>, <code>POST /v1/messages/count_tokens</code>,
<code>/v1/messages/batches</code></li>
<li><a href="/admin/requests">/admin/requests</a>, <a href="/admin/ledger">/admin/ledger</a>,
<a href="/admin/calls">/admin/calls</a>, <a href="/admin/usage">/admin/usage</a></li>
<li><a href="/admin/faults">/admin/faults</a>, <a href="/admin/limits">/admin/limits</a>,
<a href="/admin/cache">/admin/cache</a>, <a href="/admin/batches">/admin/batches</a></li>
<li>Sources to write about: <a href="/samples/researcher.html">a researcher</a>,
<a href="/samples/book.html">a book</a>, <a href="/samples/organisation.html">an organisation</a>,
<a href="/arxiv/api/query?search_query=au:Marsh">a small arXiv</a>; all made up</li>
<li><a href="/openapi.json">/openapi.json</a></li>
</ul>
</body></html>
"""


class SimulatorMarks:
    """Puts a request id and `x-penstock-simulated: true` on every answer, errors included."""

    def __init__(self, app: ASGIApp) -> None:
        """Wrap an app."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve, with the marks on the answer's head."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = f"req_sim_{uuid.uuid4().hex[:24]}"
        scope.setdefault("state", {})["request_id"] = request_id

        async def send_marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["x-penstock-simulated"] = "true"
                headers["request-id"] = request_id
            await send(message)

        await self._app(scope, receive, send_marked)


def create_app(settings: SimulatorSettings | None = None) -> FastAPI:
    """Build the simulator.

    Args:
        settings: Pace and bounds; None means those of the environment.
    """
    if settings is None:
        telemetry.initialize(service_name="simulator")
        settings = load(SimulatorSettings)
    app = FastAPI(title=TITLE, description="Answers by rule; no model is involved.", docs_url=None)
    app.state.simulator = State(
        settings=settings,
        faults=FaultBoard(),
        ledger=Ledger(max_requests=settings.max_logged_requests),
        limits=LimitBoard(default_limits(settings)),
        batches=BatchBoard(seconds=settings.batch_seconds),
    )
    app.add_middleware(SimulatorMarks)
    app.add_exception_handler(ApiError, _answer_error)
    app.add_exception_handler(RequestValidationError, _answer_error)
    app.add_exception_handler(HTTPException, _answer_error)
    app.include_router(messages.router)
    app.include_router(batches.router)
    app.include_router(admin.router)
    app.include_router(samples.router)
    app.add_api_route("/", _root, include_in_schema=False, response_class=HTMLResponse)
    app.add_api_route("/livez", _livez)
    return app


async def _root() -> str:
    return ROOT_PAGE


async def _livez() -> dict[str, str]:
    """The process is up."""
    return {"status": "ok"}


async def _answer_error(request: Request, error: Exception) -> Response:
    """Any error, in the format of Claude's API."""
    if isinstance(error, RequestValidationError):
        error = InvalidRequestError(str(error.errors()[0]["msg"]))
    if isinstance(error, HTTPException):
        error_type = "not_found_error" if error.status_code == 404 else "invalid_request_error"  # noqa: PLR2004 - HTTP
        error = ApiError(error.status_code, error_type, str(error.detail))
    if not isinstance(error, ApiError):
        raise error
    return JSONResponse(
        error.body(request.state.request_id), status_code=error.status, headers=error.headers
    )
