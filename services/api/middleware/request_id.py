"""Each request has an id: in its answer, in problems and in log lines."""

import re

import uuid_utils.compat
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.core import logs, telemetry

HEADER = "X-Request-Id"
_TRUSTED_FORM = re.compile(r"[A-Za-z0-9._-]{1,64}")


class RequestIdMiddleware:
    """Takes a well-formed id from the client (or a proxy), else makes one; it is in request.state.request_id."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get(HEADER, "")
        request_id = given if _TRUSTED_FORM.fullmatch(given) else uuid_utils.compat.uuid7().hex
        scope.setdefault("state", {})["request_id"] = request_id

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)[HEADER] = request_id
            await send(message)

        with logs.bound(request_id=request_id):
            telemetry.annotate(request_id=request_id)
            await self._app(scope, receive, send_with_id)
