"""What each request and each answer has around it: ids, limits, headers, one log line and one measurement.

One middleware, not one for each: a call through five of them takes longer than FastAPI itself.
"""

import logging
import re
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from types import MappingProxyType

import uuid_utils
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.api.middleware.body_limit import limited
from services.api.middleware.security_headers import with_security_headers
from services.core import logs, telemetry
from services.core.clock import monotonic_s

logger = logging.getLogger(__name__)

UNMATCHED = "(none)"
QUIET_ROUTES = frozenset({"/livez", "/readyz", "/metrics"})
"""Asked every few seconds by machines; logged only when they fail."""
SERVER_ERROR = 500
ID_HEADER = b"x-request-id"
_TRUSTED_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")

Measure = Callable[[str, str, int, float], None]
"""Takes method, route, status and seconds."""


def silence_server_log() -> None:
    """Leave the telling of requests to the envelope: uvicorn logs whole paths, with the ids in them."""
    logging.getLogger("uvicorn.access").disabled = True


class EnvelopeMiddleware:
    """Goes around every request.

    * An id, in the answer, in problems and in log lines: the client's (or a proxy's) if well-formed, else a new one.
      It is in request.state.request_id.
    * A trace id for log lines and runs, also where nobody gets the spans and FastAPI therefore makes none.
    * No larger body than the settings allow.
    * Headers that keep browsers from guessing, framing, caching or sniffing.
    * HEAD wherever GET is: with its headers; a stream ends before its first byte.
    * One log line and one measurement: route, status and time, never bodies, keys or query strings. Told by the route,
      so that ids and secrets in paths stay out of logs and labels.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        measure: Measure,
        max_body_bytes: int,
        exceptions: Mapping[str, int] = MappingProxyType({}),
        makes_trace_ids: bool = False,
    ) -> None:
        """Take the limits, and whom to tell.

        Args:
            app: What answers.
            measure: Gets one measurement for each request.
            max_body_bytes: Largest body.
            exceptions: The same for single paths.
            makes_trace_ids: Whether FastAPI makes no spans, which have them.
        """
        self._app = app
        self._measure = measure
        self._max_body_bytes = max_body_bytes
        self._exceptions = exceptions
        self._makes_trace_ids = makes_trace_ids

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started_s = monotonic_s()
        headers: dict[bytes, bytes] = dict(reversed(scope["headers"]))  # the first of a name counts
        request_id = _id_of(headers)
        scope.setdefault("state", {})["request_id"] = request_id
        limit = self._exceptions.get(scope["path"], self._max_body_bytes)
        receive = limited(receive, headers, max_body_bytes=limit)
        if scope["method"] == "HEAD":
            scope, send = {**scope, "method": "GET"}, _without_body(send)
        status = SERVER_ERROR

        async def send_enveloped(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                id_header = (ID_HEADER, request_id.encode())
                message["headers"] = [*with_security_headers(message["headers"]), id_header]
            await send(message)

        with self._told_as(request_id, headers):
            if not self._makes_trace_ids:
                telemetry.annotate(request_id=request_id)
            try:
                await self._app(scope, receive, send_enveloped)
            finally:
                self._tell(scope, status, monotonic_s() - started_s)

    def _told_as(
        self, request_id: str, headers: Mapping[bytes, bytes]
    ) -> AbstractContextManager[object]:
        if not self._makes_trace_ids:
            return logs.bound(request_id=request_id)
        traceparent = headers.get(b"traceparent", b"").decode("latin-1")
        return telemetry.unrecorded_request(traceparent, request_id=request_id)

    def _tell(self, scope: Scope, status: int, seconds: float) -> None:
        method, route = scope["method"], getattr(scope.get("route"), "path", UNMATCHED)
        self._measure(method, route, status, seconds)
        if route in QUIET_ROUTES and status < SERVER_ERROR:
            return
        ms = round(seconds * 1000, 1)
        facts = {"method": method, "route": route, "status": status, "ms": ms}
        logs.info(logger, f"{method} {route} {status} {ms} ms", facts)


def _id_of(headers: Mapping[bytes, bytes]) -> str:
    given = headers.get(ID_HEADER)
    if given is not None:
        text = given.decode("latin-1")
        if _TRUSTED_ID.fullmatch(text):
            return text
    made: str = uuid_utils.uuid7().hex
    return made


def _without_body(send: Send) -> Send:
    """Send the start of an answer, and complete it, which also makes the server report a disconnect: streams end."""

    async def send_head(message: Message) -> None:
        if message["type"] == "http.response.start":
            await send(message)
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    return send_head
