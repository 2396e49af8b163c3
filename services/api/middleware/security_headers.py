"""Headers that keep browsers from guessing, framing, caching or sniffing."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

SECURITY_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
_ENCODED = tuple(
    (name.lower().encode(), value.encode()) for name, value in SECURITY_HEADERS.items()
)
"""As ASGI has them: encoding and looking for each with every answer takes longer than all else here."""


class SecurityHeadersMiddleware:
    """Adds the headers that the answer does not set itself, as the docs page does."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = list(message["headers"])
                own = {name for name, _ in headers}
                missing = (header for header in _ENCODED if header[0] not in own)
                message["headers"] = [*headers, *missing]
            await send(message)

        await self._app(scope, receive, send_with_headers)
