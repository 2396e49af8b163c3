"""Making the simulator fail on demand, as Claude's API fails."""

import random
from collections.abc import Mapping
from enum import StrEnum

from pydantic import BaseModel, Field

from services.simulator.errors import InvalidRequestError

MAX_RULES = 100


class Fault(StrEnum):
    """What can go wrong with a call."""

    OVERLOADED = "overloaded"
    RATE_LIMIT = "rate_limit"
    RAMP_LIMIT = "ramp_limit"
    SPEND_LIMIT = "spend_limit"
    CONTRACT_SPEND_LIMIT = "contract_spend_limit"
    LINKED_SPEND_LIMIT = "linked_spend_limit"
    BILLING = "billing"
    API_ERROR = "api_error"
    TIMEOUT_ERROR = "timeout_error"
    INVALID_REQUEST = "invalid_request"
    AUTHENTICATION = "authentication"
    PERMISSION = "permission"
    NOT_FOUND = "not_found"
    CONFLICT = "conflict"
    REQUEST_TOO_LARGE = "request_too_large"
    ORGANIZATION_ON_HOLD = "organization_on_hold"
    UNAVAILABLE = "unavailable"
    ERROR = "error"
    """Any error: the rule says status, error_type and error_code."""
    BAD_GATEWAY = "bad_gateway"
    """502 with a page of HTML, as from a proxy in between."""
    HANG = "hang"
    """No answer for as long as the client waits."""
    DROP = "drop"
    """The connection is cut in mid-answer."""
    MIDSTREAM_OVERLOADED = "midstream_overloaded"
    """An error event in mid-answer, under status 200."""
    MIDSTREAM_ERROR = "midstream_error"
    """The same, with the error_type and error_code that the rule says."""
    TRUNCATED_STREAM = "truncated_stream"
    """The stream ends in good order in mid-answer, as a proxy may end it."""
    GARBAGE = "garbage"
    """A whole answer that is no JSON."""
    REFUSAL = "refusal"
    MAX_TOKENS = "max_tokens"
    CONTEXT_WINDOW = "context_window"
    PAUSE_TURN = "pause_turn"


class Place(StrEnum):
    """Where a rule applies."""

    LIVE = "live"
    """Calls to POST /v1/messages."""
    BATCH_CREATE = "batch_create"
    """POST /v1/messages/batches: errors before the batch exists; hang and drop after, so that it does."""
    BATCH_REQUEST = "batch_request"
    """Requests within a batch: an error makes them errored, a spoilt answer is their result."""
    BATCH_RESULTS = "batch_results"
    """GET of a batch's results: errors, those of lost answers, and truncated_stream, which leaves half out."""


class FaultRule(BaseModel, extra="forbid"):
    """What is to happen to which calls."""

    fault: Fault | None = None
    """None: only the pace changes."""
    place: Place = Place.LIVE
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
    status: int | None = Field(default=None, ge=400, le=599)
    """HTTP status of fault `error`; None: that of its type."""
    error_type: str | None = None
    """error.type of faults `error` and `midstream_error`; None: api_error."""
    error_code: str | None = None
    """error.details.error_code of these faults."""
    message: str | None = None
    """error.message of any error."""
    stamp_pieces: bool = False
    """Each piece of a stream says when it left: see SimulatorSettings.stamp_pieces."""


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

    def rule_for(
        self, prompt: str, headers: Mapping[str, str], *, place: Place = Place.LIVE
    ) -> FaultRule:
        """What happens to a call: what its own headers say, else what the rules say.

        Raises:
            InvalidRequestError: A header holds what is no fault or number.
        """
        if any(name.startswith("x-simulator-") for name in headers):
            return _rule_from_headers(headers)
        for number, rule in enumerate(self.rules):
            if rule.place is not place or (rule.match or "") not in prompt:
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


def _rule_from_headers(headers: Mapping[str, str]) -> FaultRule:
    values = {
        field: headers[name]
        for field in FaultRule.model_fields
        if (name := f"x-simulator-{field.replace('_', '-')}") in headers
    }
    try:
        return FaultRule.model_validate(values)
    except ValueError as error:
        message = f"x-simulator headers: {error}"
        raise InvalidRequestError(message) from None
