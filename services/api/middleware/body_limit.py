"""No request body is larger than the settings allow, whatever its headers say."""

from collections.abc import Mapping
from types import MappingProxyType

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class BodyLimitMiddleware:
    """Fails the reading of a body with 413: at once if Content-Length says too much, else when too much has come in.

    FastAPI's own `max_body_size` counts as well, but answers in plain text.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        max_body_bytes: int,
        exceptions: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        """Take the limits.

        Args:
            app: What answers.
            max_body_bytes: Largest body.
            exceptions: The same for single paths.
        """
        self._app = app
        self._max_body_bytes = max_body_bytes
        self._exceptions = exceptions

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "http":
            announced = Headers(scope=scope).get("content-length", "")
            limit = self._exceptions.get(scope["path"], self._max_body_bytes)
            receive = _counted(receive, int(announced) if announced.isdecimal() else 0, limit)
        await self._app(scope, receive, send)


def _counted(receive: Receive, announced_bytes: int, max_body_bytes: int) -> Receive:
    received_bytes = 0

    def refuse_above_limit(body_bytes: int) -> None:
        if body_bytes > max_body_bytes:
            # The one kind of error that FastAPI lets through while it reads a body.
            raise HTTPException(413, f"A body may have {max_body_bytes} bytes.")

    async def receive_counted() -> Message:
        nonlocal received_bytes
        refuse_above_limit(announced_bytes)
        message = await receive()
        received_bytes += len(message.get("body", b""))
        refuse_above_limit(received_bytes)
        return message

    return receive_counted
