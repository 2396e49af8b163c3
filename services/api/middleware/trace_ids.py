"""Each request has a trace id, also where nobody gets the spans."""

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from services.core import telemetry


class TraceIdMiddleware:
    """Stands for FastAPI's spans where none would leave the process: log lines and runs have the id."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        with telemetry.unrecorded_request(Headers(scope=scope).get("traceparent")):
            await self._app(scope, receive, send)
