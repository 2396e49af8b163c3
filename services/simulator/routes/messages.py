"""The Messages API."""

from typing import TypeVar

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ValidationError

from services.core.clock import utc_now
from services.simulator.answer import (
    SimulatedAnswer,
    answer_request,
    count_input_tokens,
    fingerprint,
)
from services.simulator.calls import Call
from services.simulator.errors import ApiError, InvalidRequestError
from services.simulator.ledger import PROMPT_CHARS, Ledger, LoggedRequest, Outcome
from services.simulator.schemas import CountTokensRequest, MessagesRequest
from services.simulator.state import State, state_of

router = APIRouter(prefix="/v1", tags=["Messages API (simulated)"])
Body = TypeVar("Body", bound=BaseModel)


@router.post("/messages")
async def create_message(request: Request) -> Response:
    """Answer by rule, in Claude's format: JSON, or events with `"stream": true`."""
    state = state_of(request)
    message = await _read(request, MessagesRequest, state)
    rule = state.faults.rule_for(message.prompt, request.headers)
    log = state.ledger.open(
        received_at=utc_now(),
        model=message.model,
        is_streamed=message.stream,
        prompt_sha256=fingerprint(message.prompt),
        prompt_start=message.prompt[:PROMPT_CHARS],
        user_id=message.metadata.user_id,
    )
    return Call(
        _answer_or_log(message, log, state.ledger),
        rule,
        log=log,
        ledger=state.ledger,
        settings=state.settings,
        request_id=request.state.request_id,
    )


@router.post("/messages/count_tokens")
async def count_message_tokens(request: Request) -> dict[str, int]:
    """Count by the same rough rule as a message's usage."""
    message = await _read(request, CountTokensRequest, state_of(request))
    return {"input_tokens": count_input_tokens(message)}


def _answer_or_log(message: MessagesRequest, log: LoggedRequest, ledger: Ledger) -> SimulatedAnswer:
    try:
        return answer_request(message)
    except InvalidRequestError as error:
        log.outcome, log.status = Outcome.ERROR, error.status
        ledger.close(log, duration_ms=0)
        raise


async def _read(request: Request, body_type: type[Body], state: State) -> Body:
    """The request's body, if there is a key and the body is right."""
    _check_key(request)
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > state.settings.max_body_bytes:
            raise ApiError(413, "request_too_large", "Request exceeds the maximum size")
    try:
        return body_type.model_validate_json(bytes(body))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        message = f"{place}: {first['msg']}" if place else first["msg"]
        raise InvalidRequestError(message) from None


def _check_key(request: Request) -> None:
    """Any key will do, but there has to be one, as at Claude's API."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    is_bearer = scheme.lower() == "bearer" and token.strip()
    if not (is_bearer or request.headers.get("x-api-key")):
        raise ApiError(401, "authentication_error", "x-api-key header is required")
