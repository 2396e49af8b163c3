"""services.core.claude.error_map: type and code decide, never class, status or text alone."""

import json
from datetime import UTC, datetime

import anthropic
import httpx2
import pytest
import time_machine
from hypothesis import given, settings
from hypothesis import strategies as st

from services.core.claude.error_map import MAX_RETRY_AFTER_S, retry_after_s, to_claude_error
from services.core.errors import (
    ClaudeError,
    ClaudeOverloadedError,
    ClaudeRateLimitedError,
    ClaudeRejectedError,
    ClaudeSpendLimitError,
    ClaudeUnavailableError,
)

REQUEST = httpx2.Request("POST", "https://api.anthropic.com/v1/messages")


def status_error(
    status: int, error_type: str | None, *, code: str | None = None, **headers: str
) -> anthropic.APIStatusError:
    """The error that the SDK makes of an answer."""
    error = {"type": error_type, "message": "Something", "details": {"error_code": code}}
    body = {"type": "error", "error": error} if error_type else None
    content = json.dumps(body).encode() if body else b"<html>"
    response = httpx2.Response(
        status,
        request=REQUEST,
        content=content,
        headers={"request-id": "req_9", **{k.replace("_", "-"): v for k, v in headers.items()}},
    )
    return anthropic.APIStatusError("text", response=response, body=body)


@pytest.mark.parametrize(
    ("status", "error_type", "code", "expected"),
    [
        (429, "rate_limit_error", None, ClaudeRateLimitedError),
        (429, "rate_limit_error", "ramp_limit_exceeded", ClaudeRateLimitedError),
        (429, "rate_limit_error", "enforced_spend_limit_reached", ClaudeSpendLimitError),
        (429, "rate_limit_error", "contract_spend_limit_reached", ClaudeSpendLimitError),
        (
            400,
            "invalid_request_error",
            "linked_organization_spend_limit_reached",
            ClaudeSpendLimitError,
        ),
        (429, "rate_limit_error", "a_code_of_tomorrow", ClaudeRateLimitedError),
        (402, "billing_error", None, ClaudeSpendLimitError),
        (529, "overloaded_error", None, ClaudeOverloadedError),
        (200, "overloaded_error", None, ClaudeOverloadedError),
        (503, "overloaded_error", None, ClaudeOverloadedError),
        (500, "api_error", None, ClaudeUnavailableError),
        (200, "api_error", None, ClaudeUnavailableError),
        (504, "timeout_error", None, ClaudeUnavailableError),
        (400, "invalid_request_error", None, ClaudeRejectedError),
        (401, "authentication_error", None, ClaudeRejectedError),
        (403, "permission_error", None, ClaudeRejectedError),
        (404, "not_found_error", None, ClaudeRejectedError),
        (413, "request_too_large", None, ClaudeRejectedError),
    ],
)
def test_type_and_code_decide(status, error_type, code, expected):
    """The code goes before the type; an unknown code counts as its type."""
    error = to_claude_error(status_error(status, error_type, code=code))

    assert expected is type(error)
    assert (code or error_type) == error.error_type
    assert "req_9" in str(error)


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (502, ClaudeUnavailableError),
        (503, ClaudeUnavailableError),
        (408, ClaudeUnavailableError),
        (429, ClaudeRateLimitedError),
        (413, ClaudeRejectedError),
        (403, ClaudeRejectedError),
        (200, ClaudeUnavailableError),
    ],
)
@pytest.mark.parametrize("error_type", [None, "a_type_of_tomorrow"])
def test_status_decides_only_where_no_known_type_does(status, error_type, expected):
    """A proxy's page, or a type that came after us, is judged by its status."""
    assert expected is type(to_claude_error(status_error(status, error_type)))


@pytest.mark.parametrize(
    ("error", "expected_type"),
    [
        (anthropic.APITimeoutError(REQUEST), "timeout"),
        (httpx2.ReadTimeout("slow"), "timeout"),
        (httpx2.PoolTimeout("full"), "connection"),
        (httpx2.ConnectError("refused"), "connection"),
        (anthropic.APIConnectionError(request=REQUEST), "connection"),
        (httpx2.RemoteProtocolError("cut"), "connection"),
        (ValueError("broken"), "unreadable"),
        (IndexError("no block"), "unreadable"),
    ],
)
def test_what_is_no_answer_is_unavailable(error, expected_type):
    """Timeouts, broken connections and unreadable streams may be over soon."""
    found = to_claude_error(error)

    assert type(found) is ClaudeUnavailableError
    assert expected_type == found.error_type


def test_a_rate_limit_carries_retry_after():
    """Only errors that are worth a wait say how long."""
    limited = to_claude_error(status_error(429, "rate_limit_error", retry_after="12"))
    overloaded = to_claude_error(status_error(529, "overloaded_error", retry_after_ms="250"))

    assert isinstance(limited, ClaudeRateLimitedError)
    assert isinstance(overloaded, ClaudeOverloadedError)
    assert limited.retry_after_s == 12
    assert overloaded.retry_after_s == 0.25


@pytest.mark.parametrize(
    ("headers", "expected_s"),
    [
        ({}, None),
        ({"retry-after": "30"}, 30),
        ({"retry-after": "1.5"}, 1.5),
        ({"retry-after": "-4"}, 0),
        ({"retry-after": "1e300"}, MAX_RETRY_AFTER_S),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "tomorrow"}, None),
        ({"retry-after": "Mon, 23 Nov 2026 12:01:00 GMT"}, 60),
        ({"retry-after": "Mon, 23 Nov 2026 12:01:00"}, 60),
        ({"retry-after": "Mon, 23 Nov 2026 11:00:00 GMT"}, 0),
        ({"retry-after": "Mon, 23 Nov 2027 12:00:00 GMT"}, MAX_RETRY_AFTER_S),
        ({"retry-after-ms": "1500", "retry-after": "9"}, 1.5),
        ({"retry-after-ms": "soon", "retry-after": "9"}, 9),
    ],
)
def test_retry_after_is_read_as_seconds_or_date(headers, expected_s):
    """Both forms of the header count, bounded by an hour."""
    with time_machine.travel(datetime(2026, 11, 23, 12, tzinfo=UTC), tick=False):
        assert expected_s == retry_after_s(httpx2.Headers(headers))


@settings(deadline=None)
@given(st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=40))
def test_no_retry_after_breaks_the_map(text):
    """Whatever the header says, the wait is sane or unknown."""
    seconds = retry_after_s(httpx2.Headers({"retry-after": text}))

    assert seconds is None or 0 <= seconds <= MAX_RETRY_AFTER_S


@settings(deadline=None)
@given(
    st.integers(200, 599),
    st.one_of(st.none(), st.text(max_size=20)),
    st.one_of(st.none(), st.text(max_size=20)),
)
def test_every_answer_has_its_error(status, error_type, code):
    """Nothing that is answered leaves the map without an error of ours."""
    assert isinstance(to_claude_error(status_error(status, error_type, code=code)), ClaudeError)


def caused(error: Exception, cause: Exception) -> Exception:
    """The error as the SDK raises it, from that of its HTTP client."""
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (status_error(429, "rate_limit_error"), True),
        (status_error(529, "overloaded_error"), True),
        (status_error(500, "api_error"), True),
        (status_error(403, None), True),
        (status_error(200, "overloaded_error"), False),
        (status_error(504, None), False),
        (status_error(502, None), False),
        (httpx2.ConnectError("refused"), True),
        (httpx2.PoolTimeout("full"), True),
        (caused(anthropic.APIConnectionError(request=REQUEST), httpx2.ConnectError("no")), True),
        (caused(anthropic.APITimeoutError(REQUEST), httpx2.ConnectTimeout("slow")), True),
        (caused(anthropic.APITimeoutError(REQUEST), httpx2.ReadTimeout("slow")), False),
        (caused(anthropic.APIConnectionError(request=REQUEST), httpx2.ReadError("cut")), False),
        (httpx2.RemoteProtocolError("cut"), False),
        (httpx2.ReadTimeout("slow"), False),
        (ValueError("broken"), False),
    ],
)
def test_an_error_says_whether_claude_may_have_gone_on(error, expected):
    """What such a call cost is not known, and a budget has to reckon with the worst."""
    assert expected is to_claude_error(error).is_cost_final
