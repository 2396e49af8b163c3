"""Making the simulator fail on demand, as Claude's API fails."""

import random
from collections.abc import Mapping
from dataclasses import replace
from enum import StrEnum

from pydantic import BaseModel, Field

from services.simulator.answer import SimulatedAnswer
from services.simulator.errors import ApiError, InvalidRequestError
from services.simulator.tokens import count_tokens

MAX_RULES = 100


class Fault(StrEnum):
    """What can go wrong with a call."""

    OVERLOADED = "overloaded"
    RATE_LIMIT = "rate_limit"
    RAMP_LIMIT = "ramp_limit"
    SPEND_LIMIT = "spend_limit"
    API_ERROR = "api_error"
    TIMEOUT_ERROR = "timeout_error"
    BAD_GATEWAY = "bad_gateway"
    """502 with a page of HTML, as from a proxy in between."""
    INVALID_REQUEST = "invalid_request"
    AUTHENTICATION = "authentication"
    HANG = "hang"
    """No answer for as long as the client waits."""
    DROP = "drop"
    """The connection is cut in mid-answer."""
    MIDSTREAM_OVERLOADED = "midstream_overloaded"
    """An error event in mid-answer, under status 200."""
    GARBAGE = "garbage"
    """A whole answer that is no JSON."""
    REFUSAL = "refusal"
    MAX_TOKENS = "max_tokens"
    CONTEXT_WINDOW = "context_window"


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
    Fault.API_ERROR: (500, "api_error", "Internal server error", None),
    Fault.TIMEOUT_ERROR: (504, "timeout_error", "Request timed out", None),
    Fault.INVALID_REQUEST: (400, "invalid_request_error", "Simulated invalid request", None),
    Fault.AUTHENTICATION: (401, "authentication_error", "invalid x-api-key", None),
}
"""Faults that are answered at once: status, type, message, error_code."""


class FaultRule(BaseModel, extra="forbid"):
    """What is to happen to which calls."""

    fault: Fault | None = None
    """None: only the pace changes."""
    count: int | None = Field(default=None, ge=1)
    """Calls that it happens to, after which the rule ends; None: all, for ever."""
    rate: float = Field(default=1, ge=0, le=1)
    """Share of the calls that it happens to."""
    match: str | None = None
    """Only calls whose prompt holds this text."""
    latency_ms: int | None = Field(default=None, ge=0)
    """Milliseconds until the answer begins; None: as configured."""
    chunk_delay_ms: int | None = Field(default=None, ge=0)
    """Milliseconds between two pieces of a stream; None: as configured."""
    retry_after: str | None = None
    """The retry-after header: seconds or an HTTP date."""


NO_FAULT = FaultRule()


class FaultBoard:
    """The rules in force; the first that applies to a call decides."""

    def __init__(self) -> None:
        """Start without any."""
        self.rules: list[FaultRule] = []
        # Seeded: a rate gives the same sequence each time, so that a test can be run again.
        self._random = random.Random(0)  # noqa: S311 - dice, not secrets

    def add(self, rule: FaultRule) -> None:
        """Put a rule behind those in force.

        Raises:
            InvalidRequestError: There are too many.
        """
        if len(self.rules) >= MAX_RULES:
            message = f"There are {MAX_RULES} rules already: delete them first"
            raise InvalidRequestError(message)
        self.rules.append(rule)

    def clear(self) -> None:
        """Take all rules back."""
        self.rules.clear()
        self._random.seed(0)

    def rule_for(self, prompt: str, headers: Mapping[str, str]) -> FaultRule:
        """What happens to a call: what its own headers say, else what the rules say.

        Raises:
            InvalidRequestError: A header holds what is no fault or number.
        """
        if any(name.startswith("x-simulator-") for name in headers):
            return _rule_from_headers(headers)
        for number, rule in enumerate(self.rules):
            if rule.match is not None and rule.match not in prompt:
                continue
            if self._random.random() >= rule.rate:
                continue
            self._spend(number)
            return rule
        return NO_FAULT

    def _spend(self, number: int) -> None:
        rule = self.rules[number]
        if rule.count is None:
            return
        if rule.count == 1:
            del self.rules[number]
        else:
            self.rules[number] = rule.model_copy(update={"count": rule.count - 1})


def error_of(rule: FaultRule) -> ApiError | None:
    """The error that a rule answers with at once, if any."""
    if rule.fault not in ERRORS:
        return None
    status, error_type, message, error_code = ERRORS[rule.fault]
    retry_after = rule.retry_after
    if retry_after is None and rule.fault is Fault.RATE_LIMIT:
        retry_after = "1"
    return ApiError(status, error_type, message, error_code=error_code, retry_after=retry_after)


def failing_answer(answer: SimulatedAnswer, fault: Fault | None) -> SimulatedAnswer:
    """The answer as a fault spoils it: whole, paid for, and useless."""
    half = answer.text[: len(answer.text) // 2]
    output_tokens = max(1, count_tokens(half))
    if fault is Fault.GARBAGE:
        return replace(answer, text="<<garbage>> " + half)
    if fault is Fault.REFUSAL:
        details = {"type": "refusal", "category": None, "explanation": None}
        return replace(
            answer, text="", stop_reason="refusal", output_tokens=1, stop_details=details
        )
    if fault is Fault.MAX_TOKENS:
        return replace(answer, text=half, stop_reason="max_tokens", output_tokens=output_tokens)
    if fault is Fault.CONTEXT_WINDOW:
        return replace(
            answer,
            text=half,
            stop_reason="model_context_window_exceeded",
            output_tokens=output_tokens,
        )
    return answer


def _rule_from_headers(headers: Mapping[str, str]) -> FaultRule:
    names = {"fault", "latency-ms", "chunk-delay-ms", "retry-after"}
    values = {
        name.replace("-", "_"): headers[f"x-simulator-{name}"]
        for name in names
        if f"x-simulator-{name}" in headers
    }
    try:
        return FaultRule.model_validate(values)
    except ValueError as error:
        message = f"x-simulator headers: {error}"
        raise InvalidRequestError(message) from None
