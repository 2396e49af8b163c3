"""The errors of Claude's API, by fault: https://platform.claude.com/docs/en/api/errors."""

from services.simulator.errors import ApiError
from services.simulator.faults import Fault, FaultRule

STATUSES = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "conflict_error": 409,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "api_error": 500,
    "timeout_error": 504,
    "overloaded_error": 529,
}
"""The HTTP status of each type."""
ERRORS: dict[Fault, tuple[int, str, str, str | None]] = {
    Fault.OVERLOADED: (529, "overloaded_error", "Overloaded", None),
    Fault.RATE_LIMIT: (429, "rate_limit_error", "Number of requests exceeds your limit", None),
    Fault.RAMP_LIMIT: (429, "rate_limit_error", "Usage grows too fast", "ramp_limit_exceeded"),
    Fault.SPEND_LIMIT: (
        429,
        "rate_limit_error",
        "You have reached your API usage limit",
        "enforced_spend_limit_reached",
    ),
    Fault.CONTRACT_SPEND_LIMIT: (
        429,
        "rate_limit_error",
        "You have reached the spend limit of your contract",
        "contract_spend_limit_reached",
    ),
    Fault.LINKED_SPEND_LIMIT: (
        402,
        "billing_error",
        "The linked organization has reached its spend limit",
        "linked_organization_spend_limit_reached",
    ),
    Fault.BILLING: (402, "billing_error", "Your credit balance is too low", None),
    Fault.API_ERROR: (500, "api_error", "Internal server error", None),
    Fault.TIMEOUT_ERROR: (504, "timeout_error", "Request timed out", None),
    Fault.INVALID_REQUEST: (400, "invalid_request_error", "Simulated invalid request", None),
    Fault.AUTHENTICATION: (401, "authentication_error", "invalid x-api-key", None),
    Fault.PERMISSION: (403, "permission_error", "Your API key may not use this model", None),
    Fault.NOT_FOUND: (404, "not_found_error", "model: not found", None),
    Fault.CONFLICT: (409, "conflict_error", "The resource was changed meanwhile", None),
    Fault.REQUEST_TOO_LARGE: (413, "request_too_large", "Request exceeds the maximum size", None),
    Fault.ORGANIZATION_ON_HOLD: (
        400,
        "invalid_request_error",
        "This organization has been disabled",
        "organization_on_hold",
    ),
    Fault.UNAVAILABLE: (503, "api_error", "The encryption key is out of reach", "cmek_key_unreachable"),
}  # fmt: skip
"""Faults that are answered at once: status, type, message, error_code."""
RETRY_AFTER = {Fault.RATE_LIMIT: "1", Fault.RAMP_LIMIT: "1"}
"""The API always says when to come back after these; after others a rule may."""
OVERLOADED = ApiError(529, "overloaded_error", "Overloaded")


def error_of(rule: FaultRule) -> ApiError | None:
    """The error that a rule answers with at once, if any."""
    if rule.fault is Fault.ERROR:
        return _described(rule)
    if rule.fault not in ERRORS:
        return None
    status, error_type, message, error_code = ERRORS[rule.fault]
    retry_after = rule.retry_after or RETRY_AFTER.get(rule.fault)
    message = rule.message or message
    return ApiError(status, error_type, message, error_code=error_code, retry_after=retry_after)


def midstream_error_of(rule: FaultRule) -> ApiError | None:
    """The error that a rule ends a stream with, if any."""
    if rule.fault is Fault.MIDSTREAM_OVERLOADED:
        return OVERLOADED
    return _described(rule) if rule.fault is Fault.MIDSTREAM_ERROR else None


def _described(rule: FaultRule) -> ApiError:
    error_type = rule.error_type or "api_error"
    return ApiError(
        rule.status or STATUSES.get(error_type, 500),
        error_type,
        rule.message or f"Simulated {error_type}",
        error_code=rule.error_code,
        retry_after=rule.retry_after,
    )
