"""services.core.claude.outcomes: row by row over HTTP, from Claude's word to what follows.

What is expected is written out here once more, so that a row that is changed or added is noticed.
"""

import typing
from pathlib import Path

import anthropic
import httpx2
import pytest
from anthropic.types import StopReason
from anthropic.types.shared import ErrorType
from pydantic import BaseModel

from services.core.claude.outcomes import (
    ERROR_CODES,
    ERROR_TYPES,
    FOLLOWS,
    OURS,
    STATUSES,
    STOP_REASONS,
    Follow,
    follow_of,
)
from services.core.claude.protocol import ClaudeRequest, Truncation
from services.core.errors import (
    ClaudeError,
    ClaudeMalformedAnswerError,
    ClaudeOverloadedError,
    ClaudeRateLimitedError,
    ClaudeRefusedError,
    ClaudeRejectedError,
    ClaudeSpendLimitError,
    ClaudeTruncatedError,
    ClaudeUnavailableError,
)
from services.core.runs.states import FailureReason
from services.worker.retry import GiveUp, RetryAfter, RetryPolicy, decide
from tests.unit.core.claude.messages_api import (
    MessagesApi,
    answer,
    claude_for,
    message_events,
    sse,
)
from tests.unit.core.claude.outcome_page import PAGE, outcome_table, shown_table

REQUEST = ClaudeRequest(system="Be brief.", prompt="Yes or no?", max_tokens=50)
BACKOFF = RetryAfter(1)
NO_BUDGET = GiveUp(FailureReason.BUDGET_EXCEEDED)
PERMANENT = GiveUp(FailureReason.PERMANENT)
POLICY = RetryPolicy(max_attempts=5, backoff_s=2, backoff_max_s=900)

STOPS = {
    "end_turn": None,
    "stop_sequence": None,
    "tool_use": None,
    "max_tokens": (ClaudeTruncatedError, PERMANENT),
    "pause_turn": (ClaudeTruncatedError, PERMANENT),
    "refusal": (ClaudeRefusedError, PERMANENT),
    "model_context_window_exceeded": (ClaudeRejectedError, PERMANENT),
}
TYPES = {
    "rate_limit_error": (429, ClaudeRateLimitedError, BACKOFF),
    "overloaded_error": (529, ClaudeOverloadedError, BACKOFF),
    "api_error": (500, ClaudeUnavailableError, BACKOFF),
    "timeout_error": (504, ClaudeUnavailableError, BACKOFF),
    "conflict_error": (409, ClaudeUnavailableError, BACKOFF),
    "billing_error": (402, ClaudeSpendLimitError, NO_BUDGET),
    "invalid_request_error": (400, ClaudeRejectedError, PERMANENT),
    "authentication_error": (401, ClaudeRejectedError, PERMANENT),
    "permission_error": (403, ClaudeRejectedError, PERMANENT),
    "not_found_error": (404, ClaudeRejectedError, PERMANENT),
    "request_too_large": (413, ClaudeRejectedError, PERMANENT),
    "memory_path_conflict_error": (409, ClaudeRejectedError, PERMANENT),
    "memory_precondition_failed_error": (412, ClaudeRejectedError, PERMANENT),
}
INVALID = (400, "invalid_request_error")
LIMITED = (429, "rate_limit_error")
CODES = {
    "contract_spend_limit_reached": (*LIMITED, ClaudeSpendLimitError, NO_BUDGET),
    "enforced_spend_limit_reached": (*LIMITED, ClaudeSpendLimitError, NO_BUDGET),
    "linked_organization_billing_unavailable": (
        402,
        "billing_error",
        ClaudeSpendLimitError,
        NO_BUDGET,
    ),
    "linked_organization_spend_limit_reached": (
        402,
        "billing_error",
        ClaudeSpendLimitError,
        NO_BUDGET,
    ),
    "user_profile_billing_not_authorized": (
        403,
        "permission_error",
        ClaudeSpendLimitError,
        NO_BUDGET,
    ),
    "user_profile_not_billable": (403, "permission_error", ClaudeSpendLimitError, NO_BUDGET),
    "ramp_limit_exceeded": (*LIMITED, ClaudeRateLimitedError, RetryAfter(61)),
    "cmek_context_unavailable": (503, "api_error", ClaudeUnavailableError, RetryAfter(121)),
    "cmek_key_unreachable": (503, "api_error", ClaudeUnavailableError, RetryAfter(31)),
    "request_body_timeout": (*INVALID, ClaudeUnavailableError, BACKOFF),
    "claude_code_key_creator_not_member": (*INVALID, ClaudeRejectedError, PERMANENT),
    "claude_code_version_too_old": (*INVALID, ClaudeRejectedError, PERMANENT),
    "cmek_key_disabled": (*INVALID, ClaudeRejectedError, PERMANENT),
    "cmek_key_network_blocked": (*INVALID, ClaudeRejectedError, PERMANENT),
    "organization_not_enrolled_in_beta": (*INVALID, ClaudeRejectedError, PERMANENT),
    "organization_on_hold": (*INVALID, ClaudeRejectedError, PERMANENT),
    "organization_type_not_supported": (*INVALID, ClaudeRejectedError, PERMANENT),
    "request_body_encoding_invalid": (*INVALID, ClaudeRejectedError, PERMANENT),
    "request_body_encoding_unsupported": (*INVALID, ClaudeRejectedError, PERMANENT),
    "request_body_too_large_after_decoding": (
        413,
        "request_too_large",
        ClaudeRejectedError,
        PERMANENT,
    ),
    "sandbox_egress_restricted": (403, "permission_error", ClaudeRejectedError, PERMANENT),
    "unsupported_charset": (*INVALID, ClaudeRejectedError, PERMANENT),
    "workspace_policy_violation": (*INVALID, ClaudeRejectedError, PERMANENT),
}
BY_STATUS = {
    402: (ClaudeSpendLimitError, NO_BUDGET),
    408: (ClaudeUnavailableError, BACKOFF),
    409: (ClaudeUnavailableError, BACKOFF),
    425: (ClaudeUnavailableError, BACKOFF),
    429: (ClaudeRateLimitedError, BACKOFF),
    529: (ClaudeOverloadedError, BACKOFF),
}
NOT_CLAUDES = {400: ClaudeRejectedError, 451: ClaudeRejectedError, 502: ClaudeUnavailableError}
AS_THEIR_TYPE = Path(__file__).with_name("codes_as_their_type.txt").read_text().split()


class Word(BaseModel):
    """What is asked for."""

    word: str


def follows(error: ClaudeError) -> RetryAfter | GiveUp:
    """What the worker makes of an error after the first try."""
    return decide(error, attempt=1, policy=POLICY, random=lambda: 0.5)


async def failed(api: MessagesApi, request: ClaudeRequest = REQUEST) -> ClaudeError:
    """The error of a call."""
    with pytest.raises(ClaudeError) as caught:
        await claude_for(api).ask(request, Word)
    return caught.value


@pytest.mark.parametrize("stop_reason", STOP_REASONS)
async def test_each_stop_reason_has_its_consequence(stop_reason: str) -> None:
    """The answer is read, or the call fails and says what it cost."""
    expected = STOPS[stop_reason]
    api = MessagesApi(answer('{"word": "yes"}', stop_reason=stop_reason))

    if expected is None:
        reply = await claude_for(api).ask(REQUEST, Word)
        assert reply.answer.word == "yes"
        return
    error = await failed(api)
    assert expected == (type(error), follows(error))
    assert error.error_type == stop_reason
    assert error.usage is not None
    assert error.usage.output_tokens >= 20


async def test_a_stop_reason_of_tomorrow_is_as_good_as_its_text() -> None:
    """A whole answer that fits its type is an answer."""
    api = MessagesApi(answer('{"word": "yes"}', stop_reason="bored"))

    assert (await claude_for(api).ask(REQUEST, Word)).answer.word == "yes"


@pytest.mark.parametrize("error_type", ERROR_TYPES)
async def test_each_error_type_has_its_consequence(error_type: str) -> None:
    """As an answer of its own."""
    status, kind, following = TYPES[error_type]
    api = MessagesApi()
    api.error(error_type, status=status)

    error = await failed(api)

    assert (kind, following) == (type(error), follows(error))
    assert error.error_type == error_type
    assert len(api.requests) == 1


@pytest.mark.parametrize("error_type", ERROR_TYPES)
async def test_each_error_type_means_the_same_in_mid_stream(error_type: str) -> None:
    """Under status 200, after a part of the answer, which is paid for."""
    _, kind, following = TYPES[error_type]
    event = {"type": "error", "error": {"type": error_type, "message": "no"}}
    api = MessagesApi(sse(*message_events('{"word": "yes"}')[:3], event))

    error = await failed(api)

    assert (kind, following) == (type(error), follows(error))
    assert error.cost_usd is not None
    assert error.cost_usd > 0


@pytest.mark.parametrize("code", ERROR_CODES)
async def test_each_error_code_has_its_consequence(code: str) -> None:
    """The cause goes before the type: money that is used up comes as a rate limit, for one."""
    status, error_type, kind, following = CODES[code]
    api = MessagesApi()
    api.error(error_type, status=status, error_code=code)

    error = await failed(api)

    assert (kind, following) == (type(error), follows(error))
    assert error.error_type == code


@pytest.mark.parametrize("code", [*AS_THEIR_TYPE, "a_code_of_tomorrow"])
async def test_every_other_error_code_counts_as_its_type(code: str) -> None:
    """As the SDK says of codes that one does not know."""
    api = MessagesApi()
    api.error("overloaded_error", status=529, error_code=code)

    error = await failed(api)

    assert ClaudeOverloadedError is type(error)
    assert error.error_type == code


@pytest.mark.parametrize("error_type", [None, "a_type_of_tomorrow"])
@pytest.mark.parametrize("status", STATUSES)
async def test_each_status_has_its_consequence(status: int, error_type: str | None) -> None:
    """A proxy's page, and an error type that came after us."""
    kind, following = BY_STATUS[status]
    api = MessagesApi()
    api.error(error_type, status=status)

    error = await failed(api)

    assert (kind, following) == (type(error), follows(error))


@pytest.mark.parametrize("status", NOT_CLAUDES)
async def test_other_statuses_go_by_their_class(status: int) -> None:
    """What a client did wrong stays wrong; what a server did may pass."""
    api = MessagesApi()
    api.error(None, status=status)

    assert NOT_CLAUDES[status] is type(await failed(api))


def _hang(_: httpx2.Request) -> httpx2.Response:
    raise httpx2.ReadTimeout("slow")


def _refuse(_: httpx2.Request) -> httpx2.Response:
    raise httpx2.ConnectError("nobody there")


SILENCES = {
    "timeout": (_hang, ClaudeUnavailableError, BACKOFF),
    "connection": (_refuse, ClaudeUnavailableError, BACKOFF),
    "cut": (
        MessagesApi(sse(*message_events('{"word": "yes"}')[:4])),
        ClaudeUnavailableError,
        BACKOFF,
    ),
    "unreadable": (
        MessagesApi(b"event: message_start\ndata: {broken\n\n"),
        ClaudeUnavailableError,
        BACKOFF,
    ),
    "malformed": (MessagesApi(answer("no JSON")), ClaudeMalformedAnswerError, BACKOFF),
}


@pytest.mark.parametrize("name", OURS)
async def test_what_claude_has_not_said_has_its_consequence(name: str) -> None:
    """Silence, cuts and nonsense are tried again."""
    api, kind, following = SILENCES[name]

    error = await failed(api)

    assert (name, kind, following) == (error.error_type, type(error), follows(error))


@pytest.mark.parametrize(
    ("headers", "expected_s"),
    [
        ({"retry-after": "7"}, 8),
        ({"retry-after": "0"}, 61),
        ({}, 61),
    ],
)
async def test_a_ramp_limit_waits_for_the_next_minute(headers, expected_s) -> None:
    """Unless the answer says how long, as it should."""
    api = MessagesApi(headers=headers)
    api.error("rate_limit_error", status=429, error_code="ramp_limit_exceeded")

    assert RetryAfter(expected_s) == follows(await failed(api))


def test_the_table_knows_all_that_the_package_knows() -> None:
    """A new version of it may bring types, causes and stop reasons: each wants a decision."""
    types = Path(anthropic.__file__).parent / "types"
    codes = {
        line.split('"')[1]
        for file in types.rglob("*_details.py")
        for line in file.read_text().splitlines()
        if line.strip().startswith('error_code: Literal["')
    }

    assert set(typing.get_args(StopReason)) == set(STOP_REASONS)
    # The API's documentation has request_too_large; the package has it as status 413 only.
    assert {*typing.get_args(ErrorType), "request_too_large"} == set(ERROR_TYPES)
    assert codes == {*ERROR_CODES, *AS_THEIR_TYPE}
    assert len(codes) == len(ERROR_CODES) + len(AS_THEIR_TYPE)


def test_every_kind_of_error_has_one_consequence() -> None:
    """An error of ours cannot be in the table with two."""
    rows = [*ERROR_TYPES.values(), *ERROR_CODES.values(), *STATUSES.values(), *OURS.values()]

    assert set(ClaudeError.__subclasses__()) | {ClaudeOverloadedError} == set(FOLLOWS)
    assert all(row.error and FOLLOWS[row.error] is row.follow for row in rows)
    assert Follow.RETRY is follow_of(ClaudeError())


@pytest.mark.parametrize("truncation", Truncation)
async def test_a_refusal_is_never_asked_again(truncation: Truncation) -> None:
    """To go on is for answers that were cut off."""
    api = MessagesApi(answer(stop_reason="refusal"))
    request = ClaudeRequest(system="", prompt="x", on_truncation=truncation)

    assert ClaudeRefusedError is type(await failed(api, request))
    assert len(api.requests) == 1


def test_the_page_shows_the_table() -> None:
    """docs/claude.md says what the code does. `python -m tests.unit.core.claude.outcome_page` writes it."""
    assert outcome_table() == shown_table(PAGE.read_text())
