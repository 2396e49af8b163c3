"""One log line and one measurement per request: route, status and time, never bodies, keys or query strings."""

import logging
from collections.abc import Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.core.clock import monotonic_s

logger = logging.getLogger(__name__)

UNMATCHED = "(none)"
QUIET_ROUTES = frozenset({"/livez", "/readyz", "/metrics"})
"""Asked every few seconds by machines; logged only when they fail."""
SERVER_ERROR = 500

Measure = Callable[[str, str, int, float], None]
"""Takes method, route, status and seconds."""


def silence_server_log() -> None:
    """Leave the telling of requests to the middleware: uvicorn logs whole paths, with the ids in them."""
    logging.getLogger("uvicorn.access").disabled = True


class AccessLogMiddleware:
    """Tells what was asked by its route, so that ids and secrets in paths stay out of logs and labels."""

    def __init__(self, app: ASGIApp, *, measure: Measure) -> None:
        self._app = app
        self._measure = measure

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started_s = monotonic_s()
        status = SERVER_ERROR

        async def send_noting_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, send_noting_status)
        finally:
            self._tell(scope, status, monotonic_s() - started_s)

    def _tell(self, scope: Scope, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", UNMATCHED)
        method = scope["method"]
        self._measure(method, route, status, seconds)
        if route in QUIET_ROUTES and status < SERVER_ERROR:
            return
        facts = {
            "method": method,
            "route": route,
            "status": status,
            "ms": round(seconds * 1000, 1),
        }
        logger.info("%(method)s %(route)s %(status)s %(ms)s ms", facts, extra=facts)
