"""Reading a request's body, as Claude's API accepts it."""

from typing import TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError

from services.simulator.errors import ApiError, InvalidRequestError

Body = TypeVar("Body", bound=BaseModel)


def check_key(request: Request) -> None:
    """Any key will do, but there has to be one, as at Claude's API.

    Raises:
        ApiError: There is none.
    """
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    is_bearer = scheme.lower() == "bearer" and token.strip()
    if not (is_bearer or request.headers.get("x-api-key")):
        raise ApiError(401, "authentication_error", "x-api-key header is required")


async def read_body(request: Request, body_type: type[Body], *, max_bytes: int) -> Body:
    """The request's body.

    Raises:
        ApiError: It is longer than that.
        InvalidRequestError: It is wrong.
    """
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > max_bytes:
            raise ApiError(413, "request_too_large", "Request exceeds the maximum size")
    try:
        return body_type.model_validate_json(bytes(body))
    except ValidationError as error:
        raise InvalidRequestError(say_what_is_wrong(error)) from None


def say_what_is_wrong(error: ValidationError) -> str:
    """The first thing that is wrong, and where."""
    first = error.errors(include_url=False)[0]
    place = ".".join(map(str, first["loc"]))
    message = first["msg"].removeprefix("Value error, ")
    return f"{place}: {message}" if place else message
