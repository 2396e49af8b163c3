"""A way past FastAPI for what is posted most often: a run with which all is well."""

from typing import Final
from uuid import UUID

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.api import run_posts
from services.api.auth import JSON
from services.api.deadline import Pulse, record_deadline
from services.api.dependencies import Dependencies
from services.api.errors import answer_error
from services.api.known_keys import KnownKeys
from services.core.errors import KeyRevokedError, PenstockError

_JSON: Final = JSON.encode()


class QuickWayMiddleware:
    """Accepts a run whose key is known here and with which nothing is wrong; the app gets all else, as it came.

    FastAPI's own way from here to a route takes longer than everything else that an accepted run costs this process.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        route: BaseRoute,
        deps: Dependencies,
        known_keys: KnownKeys,
        pulse: Pulse,
    ) -> None:
        """Take what accepting needs.

        Args:
            app: What answers everything else.
            route: What a request is called in log lines and figures.
            deps: With the record.
            known_keys: Whose keys are.
            pulse: Is to know that the record answers.
        """
        self._app = app
        self._route = route
        self._deps = deps
        self._known_keys = known_keys
        self._pulse = pulse

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        authorization, idempotency_keys = _read_head(scope)
        key_id = self._known_keys.find(authorization) if authorization else None
        if key_id is None:
            await self._app(scope, receive, send)
            return
        scope["route"] = self._route
        try:
            with record_deadline(self._pulse, begins_with_body=True) as deadline:
                body = await _read_body(receive)
                deadline.end_body()
                accepted = await self._accept(key_id, body, idempotency_keys)
        except (PenstockError, HTTPException) as error:
            answer = await answer_error(Request(scope, receive), error)
            await answer(scope, receive, send)
            return
        if accepted is None:
            await self._app(scope, _again(body, receive), send)
        else:
            await _answer(send, *accepted)

    async def _accept(
        self, key_id: UUID, body: bytes, idempotency_keys: list[str]
    ) -> tuple[str, bytes] | None:
        """Where the run is and the answer, or None if it is not for here."""
        new = run_posts.read_plain_run(self._deps, key_id, body, idempotency_keys)
        if new is None:
            return None
        try:
            accepted = await run_posts.accept(self._deps, new)
        except KeyRevokedError:
            self._known_keys.forget(key_id)
            return None
        self._pulse.note()
        return accepted


def _read_head(scope: Scope) -> tuple[str, list[str]]:
    """Authorization and idempotency keys of a POST of a run in JSON; nothing of all other requests."""
    if scope["type"] != "http" or scope["path"] != run_posts.PATH or scope["method"] != "POST":
        return "", []
    authorization = media_type = b""
    idempotency_keys: list[str] = []
    for name, value in scope["headers"]:
        if name == b"authorization":
            authorization = authorization or value
        elif name == b"content-type":
            media_type = media_type or value
        elif name == b"idempotency-key":
            idempotency_keys.append(value.decode("latin-1"))
    if media_type.partition(b";")[0].strip().lower() != _JSON:
        return "", []
    return authorization.decode("latin-1"), idempotency_keys


async def _read_body(receive: Receive) -> bytes:
    body = b""
    more = True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            raise HTTPException(400)  # the client has gone
        body += message.get("body", b"")
        more = message.get("more_body", False)
    return body


def _again(body: bytes, receive: Receive) -> Receive:
    """Give a body that was read already."""
    is_given = False

    async def receive_again() -> Message:
        nonlocal is_given
        if is_given:
            return await receive()
        is_given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return receive_again


async def _answer(send: Send, path: str, content: bytes) -> None:
    headers = [
        (b"content-length", b"%d" % len(content)),
        (b"content-type", _JSON),
        (b"location", path.encode()),
    ]
    await send({"type": "http.response.start", "status": 202, "headers": headers})
    await send({"type": "http.response.body", "body": content})
