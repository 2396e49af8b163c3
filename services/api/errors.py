"""What clients are told when something goes wrong: one table, one shape (RFC 9457).

Errors say what happened; this table says what follows over HTTP. Nothing of the error but its message, and only
where the table allows it, reaches a client: no stack trace, no input, no secret.
"""

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import iter_route_contexts
from starlette.exceptions import HTTPException
from starlette.responses import Response

from services.api.validation import FieldError, describe_validation
from services.core.errors import (
    ClaudeNotConfiguredError,
    IdempotencyConflictError,
    KeyRevokedError,
    PenstockError,
    QueueFullError,
    RunNotCancellableError,
    RunNotFoundError,
    RunNotReplayableError,
    StoreFullError,
    StoreUnavailableError,
)

logger = logging.getLogger(__name__)

PROBLEM_MEDIA_TYPE = "application/problem+json"
TYPE_PREFIX = "urn:penstock:problem:"
MAX_FIELD_ERRORS = 50


class UnauthorizedError(PenstockError):
    """Send a valid key as `Authorization: Bearer psk_...`."""


class BodyTooSlowError(PenstockError):
    """The whole body must come within 60 s."""


class UnsupportedMediaTypeError(PenstockError):
    """The body is of another media type than is read here."""

    def __init__(self, *, supported: Iterable[str]) -> None:
        super().__init__(f"Send the body as {' or '.join(supported)}.")


class UnknownPipelineError(PenstockError):
    """There is no such pipeline."""

    def __init__(self, *, known: Iterable[str]) -> None:
        self.known = sorted(known)
        super().__init__(f"There is no such pipeline; there are: {', '.join(self.known)}.")


class InvalidRequestError(PenstockError):
    """The request is not as documented; `errors` says where."""

    def __init__(self, errors: Sequence[FieldError]) -> None:
        super().__init__()
        self.errors = tuple(errors)


class NotFoundError(PenstockError):
    """There is no such thing."""


class NotReadyError(PenstockError):
    """This process cannot serve now."""


class TooBusyError(PenstockError):
    """This process takes in as many batches as it can; try again soon."""


class StreamEndedError(PenstockError):
    """The run has ended and the client has seen all of it."""


@dataclass(frozen=True, slots=True)
class ProblemType:
    """A kind of problem, as clients see it."""

    name: str
    status: int
    title: str
    retry_after_s: float | None = None
    """Seconds after which trying again may help, unless the error knows better."""
    detail: str | None = None
    """Said instead of the error's own message."""

    @property
    def uri(self) -> str:
        """The problem's `type`."""
        return f"{TYPE_PREFIX}{self.name}"


UNAUTHORIZED = ProblemType("unauthorized", 401, "A valid API key is needed")
NOT_FOUND = ProblemType(
    "not-found", 404, "Not found", detail="There is nothing here that this key may see."
)
METHOD_NOT_ALLOWED = ProblemType("method-not-allowed", 405, "Method not allowed")
NOT_CANCELLABLE = ProblemType("not-cancellable", 409, "The run has ended already")
NOT_REPLAYABLE = ProblemType("not-replayable", 409, "The run has neither failed nor been cancelled")
BODY_TOO_SLOW = ProblemType("body-too-slow", 408, "The body did not come in time")
BODY_TOO_LARGE = ProblemType("body-too-large", 413, "The body is too large")
UNSUPPORTED_MEDIA_TYPE = ProblemType(
    "unsupported-media-type", 415, "The body is of another media type than is read here"
)
INVALID_REQUEST = ProblemType("invalid-request", 422, "The request is not as documented")
UNKNOWN_PIPELINE = ProblemType("unknown-pipeline", 422, "There is no such pipeline")
IDEMPOTENCY_CONFLICT = ProblemType(
    "idempotency-conflict", 422, "The idempotency key was used with another body"
)
QUEUE_FULL = ProblemType("queue-full", 429, "Too many runs are queued", retry_after_s=5)
INTERNAL_ERROR = ProblemType(
    "internal-error",
    500,
    "Something went wrong here",
    detail="The error was logged under this request id.",
)
RECORD_UNAVAILABLE = ProblemType(
    "record-unavailable", 503, "The record cannot be reached", retry_after_s=2
)
RECORD_FULL = ProblemType("record-full", 503, "The record's disk is full", retry_after_s=30)
CLAUDE_NOT_CONFIGURED = ProblemType(
    "claude-not-configured", 503, "Claude is not configured", retry_after_s=60
)
TOO_BUSY = ProblemType("too-busy", 503, "Too many batches at once", retry_after_s=1)
NOT_READY = ProblemType("not-ready", 503, "Not ready", retry_after_s=2)

PROBLEM_TYPES = (
    UNAUTHORIZED,
    NOT_FOUND,
    METHOD_NOT_ALLOWED,
    NOT_CANCELLABLE,
    NOT_REPLAYABLE,
    BODY_TOO_LARGE,
    BODY_TOO_SLOW,
    UNSUPPORTED_MEDIA_TYPE,
    INVALID_REQUEST,
    UNKNOWN_PIPELINE,
    IDEMPOTENCY_CONFLICT,
    QUEUE_FULL,
    INTERNAL_ERROR,
    RECORD_UNAVAILABLE,
    RECORD_FULL,
    CLAUDE_NOT_CONFIGURED,
    TOO_BUSY,
    NOT_READY,
)

PROBLEM_OF_ERROR: dict[type[PenstockError], ProblemType] = {
    UnauthorizedError: UNAUTHORIZED,
    KeyRevokedError: UNAUTHORIZED,
    NotFoundError: NOT_FOUND,
    RunNotFoundError: NOT_FOUND,
    RunNotCancellableError: NOT_CANCELLABLE,
    RunNotReplayableError: NOT_REPLAYABLE,
    BodyTooSlowError: BODY_TOO_SLOW,
    UnsupportedMediaTypeError: UNSUPPORTED_MEDIA_TYPE,
    InvalidRequestError: INVALID_REQUEST,
    UnknownPipelineError: UNKNOWN_PIPELINE,
    IdempotencyConflictError: IDEMPOTENCY_CONFLICT,
    QueueFullError: QUEUE_FULL,
    StoreUnavailableError: RECORD_UNAVAILABLE,
    StoreFullError: RECORD_FULL,
    ClaudeNotConfiguredError: CLAUDE_NOT_CONFIGURED,
    TooBusyError: TOO_BUSY,
    NotReadyError: NOT_READY,
}

# The framework's own errors. 400 is what FastAPI says to a body that it cannot even decode.
PROBLEM_OF_STATUS: dict[int, ProblemType] = {
    400: INVALID_REQUEST,
    404: NOT_FOUND,
    405: METHOD_NOT_ALLOWED,
    413: BODY_TOO_LARGE,
}


def problem_response(
    problem: ProblemType,
    request: Request,
    *,
    detail: str | None = None,
    headers: Mapping[str, str] | None = None,
    **members: Any,
) -> JSONResponse:
    """The answer that tells a client about a problem.

    Args:
        problem: Its kind.
        request: The request that met it.
        detail: What to say, if the kind itself does not.
        headers: Further headers.
        members: Further members of the JSON object.
    """
    content = {
        "type": problem.uri,
        "title": problem.title,
        "status": problem.status,
        "detail": problem.detail or detail or problem.title,
        "instance": request.url.path,
        "request_id": getattr(request.state, "request_id", None),
        **members,
    }
    return JSONResponse(
        content, problem.status, headers=dict(headers or {}), media_type=PROBLEM_MEDIA_TYPE
    )


async def _answer_penstock_error(request: Request, error: Exception) -> Response:
    kinds = (PROBLEM_OF_ERROR[kind] for kind in type(error).__mro__ if kind in PROBLEM_OF_ERROR)
    problem = next(kinds, None)
    if problem is None:
        raise error
    headers = {}
    retry_after_s = getattr(error, "retry_after_s", problem.retry_after_s)
    if retry_after_s is not None:
        headers["Retry-After"] = str(max(1, math.ceil(retry_after_s)))
    if problem is RECORD_FULL:
        request.app.state.full_disk.note()
    if problem is UNAUTHORIZED:
        headers["WWW-Authenticate"] = 'Bearer realm="penstock"'
    return problem_response(
        problem, request, detail=str(error), headers=headers, **_members_of(error)
    )


def _members_of(error: Exception) -> dict[str, Any]:
    if isinstance(error, UnknownPipelineError):
        return {"known_pipelines": error.known}
    if isinstance(error, InvalidRequestError):
        shown = error.errors[:MAX_FIELD_ERRORS]
        return {"errors": [_error_member(found) for found in shown]}
    return {}


def _error_member(found: FieldError) -> dict[str, Any]:
    row = {} if found.row is None else {"row": found.row}
    return {"in": found.location, **row, "field": found.field, "message": found.message}


async def _answer_validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101 - how it is registered
    return await _answer_penstock_error(
        request, InvalidRequestError(describe_validation(error.errors(), body=error.body))
    )


async def _answer_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - how it is registered
    problem = PROBLEM_OF_STATUS.get(error.status_code, INTERNAL_ERROR)
    if problem is INVALID_REQUEST:
        unreadable = FieldError("body", "", "The body cannot be read as JSON")
        return await _answer_penstock_error(request, InvalidRequestError([unreadable]))
    if problem is METHOD_NOT_ALLOWED:
        allowed = ", ".join(_allowed_methods(request))
        detail = f"This path allows {allowed}."
        return problem_response(problem, request, detail=detail, headers={"Allow": allowed})
    return problem_response(problem, request, detail=str(error.detail))


def _allowed_methods(request: Request) -> list[str]:
    """Every method of the path, not only those of the first route that has it."""
    path = request.url.path
    routes = iter_route_contexts(request.app.routes)
    matching = (r.methods or () for r in routes if r.path_regex.match(path))
    methods = {method for methods in matching for method in methods}
    return sorted(methods | ({"HEAD"} if "GET" in methods else set()))


async def _answer_stream_ended(_: Request, __: Exception) -> Response:
    # 204 is what tells an EventSource to stop reconnecting (HTML Living Standard, 9.2.3).
    return Response(status_code=204)


async def _answer_unexpected_error(request: Request, error: Exception) -> Response:
    request_id = getattr(request.state, "request_id", "")
    logger.error("Request failed", exc_info=error, extra={"request_id": request_id})
    return problem_response(INTERNAL_ERROR, request)


async def answer_error(request: Request, error: PenstockError | HTTPException) -> Response:
    """The answer that an app gives to an error of one of its routes."""
    if isinstance(error, HTTPException):
        return await _answer_http_error(request, error)
    return await _answer_penstock_error(request, error)


def install_error_handlers(app: FastAPI) -> None:
    """Answer every error of an app with problem+json."""
    app.add_exception_handler(PenstockError, _answer_penstock_error)
    app.add_exception_handler(StreamEndedError, _answer_stream_ended)
    app.add_exception_handler(RequestValidationError, _answer_validation_error)
    app.add_exception_handler(HTTPException, _answer_http_error)
    app.add_exception_handler(Exception, _answer_unexpected_error)
