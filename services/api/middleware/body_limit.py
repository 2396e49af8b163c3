"""No request body is larger than the settings allow, whatever its headers say."""

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class BodyLimitMiddleware:
    """Fails the reading of a body with 413: at once if Content-Length says too much, else when too much has come in.

    FastAPI's own `max_body_size` counts as well, but answers in plain text.
    """

    def __init__(self, app: ASGIApp, *, max_body_bytes: int) -> None:
        self._app = app
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "http":
            announced = Headers(scope=scope).get("content-length", "")
            receive = self._counted(receive, int(announced) if announced.isdecimal() else 0)
        await self._app(scope, receive, send)

    def _counted(self, receive: Receive, announced_bytes: int) -> Receive:
        received_bytes = 0

        async def receive_counted() -> Message:
            nonlocal received_bytes
            self._refuse_above_limit(announced_bytes)
            message = await receive()
            received_bytes += len(message.get("body", b""))
            self._refuse_above_limit(received_bytes)
            return message

        return receive_counted

    def _refuse_above_limit(self, body_bytes: int) -> None:
        if body_bytes > self._max_body_bytes:
            # The one kind of error that FastAPI lets through while it reads a body.
            raise HTTPException(413, f"A body may have {self._max_body_bytes} bytes.")
