"""What the SDK's errors mean here.

The API's own words decide: `error.details.error_code`, then `error.type`. Class and status do not:
an overload in mid-stream is a plain APIStatusError with status 200, and a 429 may be a spend limit.
Status counts only where an answer is not the API's at all (a proxy's HTML page), or where its type
is not one that we know.
"""

import math
from datetime import UTC
from email.utils import parsedate_to_datetime

import anthropic
import httpx2

from services.core.clock import utc_now
from services.core.errors import (
    ClaudeError,
    ClaudeOverloadedError,
    ClaudeRateLimitedError,
    ClaudeRejectedError,
    ClaudeSpendLimitError,
    ClaudeUnavailableError,
)

MAX_RETRY_AFTER_S = 3600.0
"""Longest wait that is believed: a run must not sleep for days because of one header."""

# ramp_limit_exceeded is not here: the SDK documents it as a limit on growth with a retry-after.
ERRORS_BY_CODE: dict[str, type[ClaudeError]] = {
    "contract_spend_limit_reached": ClaudeSpendLimitError,
    "enforced_spend_limit_reached": ClaudeSpendLimitError,
    "linked_organization_spend_limit_reached": ClaudeSpendLimitError,
    "linked_organization_billing_unavailable": ClaudeSpendLimitError,
    "ramp_limit_exceeded": ClaudeRateLimitedError,
}

ERRORS_BY_TYPE: dict[str, type[ClaudeError]] = {
    "rate_limit_error": ClaudeRateLimitedError,
    "overloaded_error": ClaudeOverloadedError,
    "billing_error": ClaudeSpendLimitError,
    "api_error": ClaudeUnavailableError,
    "timeout_error": ClaudeUnavailableError,
    "conflict_error": ClaudeUnavailableError,
    "invalid_request_error": ClaudeRejectedError,
    "authentication_error": ClaudeRejectedError,
    "permission_error": ClaudeRejectedError,
    "not_found_error": ClaudeRejectedError,
    "request_too_large": ClaudeRejectedError,
}

RETRYABLE_STATUS = frozenset({408, 409, 425})


def to_claude_error(error: Exception) -> ClaudeError:
    """Tell what an error of the SDK or its HTTP client means.

    Args:
        error: What a call raised, before or while the answer streamed in.
    """
    if isinstance(error, anthropic.APIStatusError):
        return _from_answer(error)
    if isinstance(error, anthropic.APITimeoutError | httpx2.TimeoutException):
        return ClaudeUnavailableError("Claude did not answer in time", error_type="timeout")
    if isinstance(error, anthropic.APIConnectionError | httpx2.TransportError):
        return ClaudeUnavailableError(
            "The connection to Claude failed or was cut", error_type="connection"
        )
    return ClaudeUnavailableError(
        f"Claude's answer could not be read ({type(error).__name__})", error_type="unreadable"
    )


def retry_after_s(headers: httpx2.Headers) -> float | None:
    """Seconds that an answer asks to wait, from 0 to MAX_RETRY_AFTER_S; None if it does not."""
    for name, read in (
        ("retry-after-ms", lambda text: float(text) / 1000),
        ("retry-after", float),
        ("retry-after", _seconds_until),
    ):
        try:
            seconds = read(headers[name])
        except (KeyError, ValueError):
            continue
        if not math.isnan(seconds):
            return min(max(seconds, 0.0), MAX_RETRY_AFTER_S)
    return None


def _from_answer(error: anthropic.APIStatusError) -> ClaudeError:
    """Map an error that Claude, or something on the way to it, has answered."""
    kind = (
        ERRORS_BY_CODE.get(error.error_code or "")
        or ERRORS_BY_TYPE.get(error.type or "")
        or _by_status(error.status_code)
    )
    error_type = error.error_code or error.type or f"http_{error.status_code}"
    message = f"Claude answered {error_type}: {error.api_message or 'no explanation'}"
    if error.request_id:
        message += f" (request {error.request_id})"
    if issubclass(kind, ClaudeRateLimitedError):
        wait_s = retry_after_s(error.response.headers)
        return kind(message, error_type=error_type, retry_after_s=wait_s)
    return kind(message, error_type=error_type)


def _by_status(status: int) -> type[ClaudeError]:
    """Judge an answer without a type that we know."""
    if status == httpx2.codes.TOO_MANY_REQUESTS:
        return ClaudeRateLimitedError
    is_client_error = 400 <= status < 500  # noqa: PLR2004 - the 4xx of RFC 9110
    if is_client_error and status not in RETRYABLE_STATUS:
        return ClaudeRejectedError
    return ClaudeUnavailableError


def _seconds_until(http_date: str) -> float:
    """Seconds from now to an HTTP date."""
    moment = parsedate_to_datetime(http_date)
    return (moment.replace(tzinfo=moment.tzinfo or UTC) - utc_now()).total_seconds()
