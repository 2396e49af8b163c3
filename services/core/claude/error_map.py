"""The SDK's errors as ours, by the table in outcomes.py."""

import math
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import anthropic
import httpx2

from services.core.claude.outcomes import OURS, outcome_of_error
from services.core.clock import utc_now
from services.core.errors import ClaudeError, ClaudeRateLimitedError
from services.core.rate_limits import SeenLimits

# Before a byte of the question is on its way.
NOTHING_SENT = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout)
MAX_RETRY_AFTER_S = 3600.0
"""Longest wait that is believed: a run must not sleep for days because of one header."""


def to_claude_error(error: Exception) -> ClaudeError:
    """Tell what an error of the SDK or its HTTP client means.

    Args:
        error: What a call raised, before or while the answer streamed in.
    """
    if isinstance(error, anthropic.APIStatusError):
        return _from_answer(error)
    if isinstance(error.__cause__ or error, NOTHING_SENT):
        return our_error("connection", "Claude could not be reached")
    if isinstance(error, anthropic.APITimeoutError | httpx2.TimeoutException):
        return unseen_end("timeout", "Claude did not answer in time")
    if isinstance(error, anthropic.APIConnectionError | httpx2.TransportError):
        return unseen_end("connection", "The connection to Claude failed or was cut")
    return unseen_end("unreadable", f"Claude's answer could not be read ({type(error).__name__})")


def our_error(error_type: str, message: str) -> ClaudeError:
    """The error for what only we can tell: one of outcomes.OURS."""
    kind = OURS[error_type].error or ClaudeError
    return kind(message, error_type=error_type)


def unseen_end(error_type: str, message: str) -> ClaudeError:
    """The same for a call that Claude may have gone on with."""
    error = our_error(error_type, message)
    error.is_cost_final = False
    return error


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
            return _believed_s(seconds)
    return None


def _from_answer(error: anthropic.APIStatusError) -> ClaudeError:
    """Map an error that Claude, or something on the way to it, has answered."""
    outcome = outcome_of_error(
        code=error.error_code, error_type=error.type, status=error.status_code
    )
    error_type = error.error_code or error.type or f"http_{error.status_code}"
    message = f"Claude answered {error_type}: {error.api_message or 'no explanation'}"
    if error.request_id:
        message += f" (request {error.request_id})"
    kind = outcome.error or ClaudeError
    seen_limits = SeenLimits.from_headers(error.response.headers)
    wait_s = retry_after_s(error.response.headers)
    if wait_s is None and issubclass(kind, ClaudeRateLimitedError):
        wait_s = _next_window_s(seen_limits)
    found = kind(
        message, error_type=error_type, retry_after_s=wait_s or outcome.least_wait_s or wait_s
    )
    found.seen_limits = seen_limits
    found.is_cost_final = _is_refusal_to_answer(error)
    return found


def _is_refusal_to_answer(error: anthropic.APIStatusError) -> bool:
    """Whether Claude has not begun to answer, for all one can know.

    It has in mid-stream, under status 200; it may have behind a proxy that gave up waiting.
    """
    is_claudes_own = error.type is not None
    return error.status_code >= 400 and (is_claudes_own or error.status_code < 500)  # noqa: PLR2004 - 4xx and 5xx of RFC 9110


def _next_window_s(seen: SeenLimits | None) -> float | None:
    """Seconds until the used-up limits are there again; None if the answer shows none."""
    if seen is None:
        return None
    shown = (seen.requests, seen.input_tokens, seen.output_tokens)
    resets = [limit.reset_at for limit in shown if limit and not limit.remaining and limit.reset_at]
    return _believed_s(_until_s(max(resets))) if resets else None


def _believed_s(seconds: float) -> float:
    return min(max(seconds, 0.0), MAX_RETRY_AFTER_S)


def _seconds_until(http_date: str) -> float:
    """Seconds from now to an HTTP date."""
    moment = parsedate_to_datetime(http_date)
    return _until_s(moment.replace(tzinfo=moment.tzinfo or UTC))


def _until_s(moment: datetime) -> float:
    return (moment - utc_now()).total_seconds()
