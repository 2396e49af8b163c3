"""The Messages API."""

from fastapi import APIRouter, Request, Response

from services.core.clock import utc_now
from services.simulator.answer import fingerprint
from services.simulator.answering import answer_message
from services.simulator.calls import Call
from services.simulator.errors import ApiError
from services.simulator.ledger import PROMPT_CHARS, LoggedRequest, Outcome
from services.simulator.prefixes import count_input_tokens
from services.simulator.reading import check_key, read_body
from services.simulator.schemas import CountTokensRequest, MessagesRequest
from services.simulator.state import State, state_of

router = APIRouter(prefix="/v1", tags=["Messages API (simulated)"])


@router.post("/messages")
async def create_message(request: Request) -> Response:
    """Answer by rule, in Claude's format: JSON, or events with `"stream": true`."""
    state = state_of(request)
    check_key(request)
    message = await read_body(request, MessagesRequest, max_bytes=state.settings.max_body_bytes)
    log = state.ledger.open(
        received_at=utc_now(),
        model=message.model,
        is_streamed=message.stream,
        prompt_sha256=fingerprint(message.prompt),
        prompt_start=message.prompt[:PROMPT_CHARS],
        user_id=message.metadata.user_id,
    )
    try:
        return _call(message, request, log, state)
    except ApiError as error:
        log.outcome, log.status = Outcome.ERROR, error.status
        state.ledger.close(log, duration_ms=0)
        raise


@router.post("/messages/count_tokens")
async def count_message_tokens(request: Request) -> dict[str, int]:
    """Count by the same rough rule as a message's usage."""
    check_key(request)
    max_bytes = state_of(request).settings.max_body_bytes
    message = await read_body(request, CountTokensRequest, max_bytes=max_bytes)
    return {"input_tokens": count_input_tokens(message)}


def _call(message: MessagesRequest, request: Request, log: LoggedRequest, state: State) -> Call:
    """The answer to send, if the limits let the call in."""
    use = state.cache.look_up(message)
    limits = state.limits.of(message.model)
    limits.admit(message.model, input_tokens=use.limited_tokens)
    rule = state.faults.rule_for(message.prompt, request.headers)
    answer = answer_message(message, use, rule.fault, state)
    request_id = request.state.request_id
    return Call(answer, rule, log=log, state=state, request_id=request_id)
