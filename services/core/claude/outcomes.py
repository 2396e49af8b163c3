"""One table: whatever a call to Claude can come to, what that is here, and what follows.

error_map.py, answer.py, turns.py and services.worker.retry read it; docs/claude.md shows it. An error's code decides
before its type, and that before the status: an overload in mid-stream comes under status 200, and a 429 may be a
spend limit.

Types, codes and stop reasons are those of anthropic 2.12; a test compares them with the installed package.
"""

from dataclasses import dataclass
from enum import StrEnum

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


class Follow(StrEnum):
    """What follows."""

    READ = "read"
    """The answer is read; if it does not fit its type, it is malformed."""
    CONTINUE = "continue"
    """Claude is asked for the rest, if the request allows it; else the error counts."""
    RESUME = "resume"
    """What came goes back, and Claude goes on; if it pauses too often, the error counts."""
    WAIT = "wait"
    """Tried again after retry-after, or in the limit's next window, or after the backoff: Claude is busy, which is
    nobody's failure."""
    RETRY = "retry"
    """Tried again after the backoff, as often as CELERY_MAX_ATTEMPTS says."""
    GIVE_UP = "give_up"
    """The run fails (`permanent`): the same question would come to the same end."""
    ASK_FOR_BUDGET = "ask_for_budget"
    """The run fails (`budget_exceeded`): it can be replayed when there is money again."""


FOLLOWS: dict[type[ClaudeError], Follow] = {
    ClaudeOverloadedError: Follow.WAIT,
    ClaudeRateLimitedError: Follow.WAIT,
    ClaudeUnavailableError: Follow.RETRY,
    ClaudeMalformedAnswerError: Follow.RETRY,
    ClaudeSpendLimitError: Follow.ASK_FOR_BUDGET,
    ClaudeRejectedError: Follow.GIVE_UP,
    ClaudeRefusedError: Follow.GIVE_UP,
    ClaudeTruncatedError: Follow.GIVE_UP,
}
"""What follows from each kind of error."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What something that Claude says is here."""

    error: type[ClaudeError] | None
    follow: Follow
    least_wait_s: float = 0
    """Seconds until the next try, where the answer asks for no other wait."""


def _error(kind: type[ClaudeError], *, least_wait_s: float = 0) -> Outcome:
    return Outcome(kind, FOLLOWS[kind], least_wait_s)


OVERLOADED = _error(ClaudeOverloadedError)
RATE_LIMITED = _error(ClaudeRateLimitedError)
REJECTED = _error(ClaudeRejectedError)
SPEND_LIMIT = _error(ClaudeSpendLimitError)
UNAVAILABLE = _error(ClaudeUnavailableError)
WHOLE = Outcome(None, Follow.READ)

STOP_REASONS: dict[str, Outcome] = {
    "end_turn": WHOLE,
    # We send no stop sequences and no tools: should one of these come, its text may still fit.
    "stop_sequence": WHOLE,
    "tool_use": WHOLE,
    "max_tokens": Outcome(ClaudeTruncatedError, Follow.CONTINUE),
    "pause_turn": Outcome(ClaudeTruncatedError, Follow.RESUME),
    "refusal": _error(ClaudeRefusedError),
    "model_context_window_exceeded": REJECTED,
}

ERROR_TYPES: dict[str, Outcome] = {
    "rate_limit_error": RATE_LIMITED,
    "overloaded_error": OVERLOADED,
    "api_error": UNAVAILABLE,
    "timeout_error": UNAVAILABLE,
    "conflict_error": UNAVAILABLE,
    "billing_error": SPEND_LIMIT,
    "invalid_request_error": REJECTED,
    "authentication_error": REJECTED,
    "permission_error": REJECTED,
    "not_found_error": REJECTED,
    "request_too_large": REJECTED,
    "memory_path_conflict_error": REJECTED,
    "memory_precondition_failed_error": REJECTED,
}

ERROR_CODES: dict[str, Outcome] = {
    "contract_spend_limit_reached": SPEND_LIMIT,
    "enforced_spend_limit_reached": SPEND_LIMIT,
    "linked_organization_billing_unavailable": SPEND_LIMIT,
    "linked_organization_spend_limit_reached": SPEND_LIMIT,
    "user_profile_billing_not_authorized": SPEND_LIMIT,
    "user_profile_not_billable": SPEND_LIMIT,
    # A limit on growth, not on money. Limits are per minute: without retry-after, the next one.
    "ramp_limit_exceeded": _error(ClaudeRateLimitedError, least_wait_s=60),
    # "Retry in a few minutes."
    "cmek_context_unavailable": _error(ClaudeUnavailableError, least_wait_s=120),
    "cmek_key_unreachable": _error(ClaudeUnavailableError, least_wait_s=30),
    # Under 400, but nothing is wrong with the question, and nothing was done.
    "request_body_timeout": UNAVAILABLE,
    "claude_code_key_creator_not_member": REJECTED,
    "claude_code_version_too_old": REJECTED,
    "cmek_key_disabled": REJECTED,
    "cmek_key_network_blocked": REJECTED,
    "organization_not_enrolled_in_beta": REJECTED,
    "organization_on_hold": REJECTED,
    "organization_type_not_supported": REJECTED,
    "request_body_encoding_invalid": REJECTED,
    "request_body_encoding_unsupported": REJECTED,
    "request_body_too_large_after_decoding": REJECTED,
    "sandbox_egress_restricted": REJECTED,
    "unsupported_charset": REJECTED,
    "workspace_policy_violation": REJECTED,
}
"""Causes that can befall our questions. All others, and those of tomorrow, count as their type."""

STATUSES: dict[int, Outcome] = {
    402: SPEND_LIMIT,
    408: UNAVAILABLE,
    409: UNAVAILABLE,
    425: UNAVAILABLE,
    429: RATE_LIMITED,
    529: OVERLOADED,
}
"""Of an answer without a type that we know, such as a proxy's page. Other 4xx are REJECTED, the rest UNAVAILABLE."""

OURS: dict[str, Outcome] = {
    "timeout": UNAVAILABLE,
    "connection": UNAVAILABLE,
    "cut": UNAVAILABLE,
    "unreadable": UNAVAILABLE,
    "malformed": _error(ClaudeMalformedAnswerError),
}
"""What we say of a call to which Claude itself has said nothing, or nothing that fits."""


def outcome_of_stop(stop_reason: str | None) -> Outcome:
    """What a whole answer's stop reason is; one of tomorrow is as good as its text."""
    return STOP_REASONS.get(stop_reason or "", WHOLE)


def outcome_of_error(*, code: str | None, error_type: str | None, status: int) -> Outcome:
    """What an error is that Claude, or something on the way to it, has answered."""
    return (
        ERROR_CODES.get(code or "")
        or ERROR_TYPES.get(error_type or "")
        or outcome_of_status(status)
    )


def outcome_of_status(status: int) -> Outcome:
    """What an answer without a known type is."""
    is_client_error = 400 <= status < 500  # noqa: PLR2004 - the 4xx of RFC 9110
    return STATUSES.get(status, REJECTED if is_client_error else UNAVAILABLE)


def follow_of(error: ClaudeError) -> Follow:
    """What follows from an error; one of a kind that is not in the table may be of the moment."""
    return next((FOLLOWS[kind] for kind in type(error).__mro__ if kind in FOLLOWS), Follow.RETRY)
