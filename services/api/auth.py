"""Who calls: a Bearer key, looked up by its prefix and compared by its hash."""

from collections.abc import Callable, Coroutine
from contextlib import AbstractContextManager, nullcontext
from hmac import compare_digest
from typing import Annotated, Any, ClassVar

from fastapi import Depends, Request, Response, Security
from fastapi.routing import APIRoute
from fastapi.security import HTTPBearer
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from services.api.deadline import record_deadline
from services.api.errors import UnauthorizedError, UnsupportedMediaTypeError
from services.api.key_lookups import KeyLookups
from services.api.known_keys import parse_bearer
from services.core.runs.models import ApiKey

# Compared with where there is no such key, so that an unknown key costs the same as a wrong one.
_NO_HASH = bytes(32)
JSON = "application/json"
_NOTHING: AbstractContextManager[None] = nullcontext()

Handler = Callable[[Request], Coroutine[Any, Any, Response]]


async def authenticate(authorization: str, keys: KeyLookups) -> ApiKey:
    """The key that a request was sent with.

    Args:
        authorization: The Authorization header.
        keys: Where keys are.

    Raises:
        UnauthorizedError: There is none, it is malformed, unknown, wrong or revoked; the answer does not tell which.
    """
    parsed = parse_bearer(authorization)
    if parsed is None:
        raise UnauthorizedError
    prefix, key_hash = parsed
    key = await keys.find_key(prefix)
    is_right = compare_digest(key.key_hash if key else _NO_HASH, key_hash)
    if key is None or not is_right or key.is_revoked:
        raise UnauthorizedError
    return key


def require_media_type(request: Request, supported: tuple[str, ...]) -> None:
    """Refuse a body that calls itself something else than what is read here.

    Raises:
        UnsupportedMediaTypeError: Its Content-Type is another one, or none.
    """
    has_body = "transfer-encoding" in request.headers or request.headers.get(
        "content-length", "0"
    ) not in ("", "0")
    if has_body and media_type_of(request) not in supported:
        raise UnsupportedMediaTypeError(supported=supported)


def media_type_of(request: Request) -> str:
    """What the body calls itself, without parameters."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


class KeyedRoute(APIRoute):
    """Asks who calls before it reads the body: a stranger gets 401 and nothing else."""

    media_types: ClassVar[tuple[str, ...]] = (JSON,)
    """What its body may be."""

    @property
    def has_body(self) -> bool:
        """Whether there is a body to read."""
        return self.body_field is not None

    def make_room(self, request: Request) -> AbstractContextManager[None]:  # noqa: ARG002 - for others
        """What the request holds from before its body is read until it is answered; may refuse it."""
        return _NOTHING

    async def answer_at_once(self, request: Request) -> Response | None:  # noqa: ARG002 - for others
        """The answer to a request that needs nothing that FastAPI does between route and endpoint, or None."""
        return None

    def get_route_handler(self) -> Handler:
        """The route's handler, behind the key and within the time that the record has."""
        handle = super().get_route_handler()

        async def answer(request: Request) -> Response:
            return await self.answer_at_once(request) or await handle(request)

        async def handle_keyed(request: Request) -> Response:
            return await self._admit(request, answer)

        return handle_keyed

    async def _admit(self, request: Request, answer: Handler) -> Response:
        """What goes before and around every answer."""
        state = request.app.state
        with record_deadline(state.record_pulse) as deadline:
            request.state.deadline = deadline
            authorization = request.headers.get("authorization", "")
            request.state.api_key = await authenticate(authorization, state.key_lookups)
            state.known_keys.note(request.state.api_key)
            require_media_type(request, self.media_types)
            with self.make_room(request):
                if self.has_body:
                    deadline.begin_body()
                    await _read_body(request)
                    deadline.end_body()
                return await answer(request)


async def _read_body(request: Request) -> None:
    """Have the body at hand: FastAPI gets what the request keeps."""
    try:
        await request.body()
    except ClientDisconnect as error:
        raise HTTPException(400) from error


async def get_caller(request: Request) -> ApiKey:
    """The key that KeyedRoute found."""
    key: ApiKey = request.state.api_key
    return key


Caller = Annotated[ApiKey, Depends(get_caller)]

# For the OpenAPI document only; KeyedRoute does the work.
BEARER = Security(
    HTTPBearer(
        scheme_name="key",
        description="An API key: `psk_<prefix>_<secret>`. `make key` makes one.",
        auto_error=False,
    )
)
