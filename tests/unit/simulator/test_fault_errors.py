"""services.simulator.fault_errors: every error of the API, as the SDK reads it."""

import anthropic
import httpx2
import pytest

from services.simulator.fault_errors import ERRORS, RETRY_AFTER, error_of, midstream_error_of
from services.simulator.faults import Fault, FaultRule

SDK_ERRORS = {
    Fault.OVERLOADED: anthropic.InternalServerError,
    Fault.RATE_LIMIT: anthropic.RateLimitError,
    Fault.RAMP_LIMIT: anthropic.types.shared.RampLimitExceededError,
    Fault.SPEND_LIMIT: anthropic.types.shared.EnforcedSpendLimitReachedError,
    Fault.CONTRACT_SPEND_LIMIT: anthropic.types.shared.ContractSpendLimitReachedError,
    Fault.LINKED_SPEND_LIMIT: anthropic.types.shared.LinkedOrganizationSpendLimitReachedError,
    Fault.BILLING: anthropic.PaymentRequiredError,
    Fault.API_ERROR: anthropic.InternalServerError,
    Fault.TIMEOUT_ERROR: anthropic.InternalServerError,
    Fault.INVALID_REQUEST: anthropic.BadRequestError,
    Fault.AUTHENTICATION: anthropic.AuthenticationError,
    Fault.PERMISSION: anthropic.PermissionDeniedError,
    Fault.NOT_FOUND: anthropic.NotFoundError,
    Fault.CONFLICT: anthropic.ConflictError,
    Fault.REQUEST_TOO_LARGE: anthropic.APIStatusError,
    Fault.ORGANIZATION_ON_HOLD: anthropic.types.shared.OrganizationOnHoldError,
    Fault.UNAVAILABLE: anthropic.types.shared.CMEKKeyUnreachableError,
}


@pytest.mark.parametrize("fault", ERRORS)
async def test_the_sdk_knows_each_error(fault):
    """By its own class, where there is one; its type and code are those of the table."""
    simulated = error_of(FaultRule(fault=fault))
    assert simulated is not None
    transport = httpx2.MockTransport(
        lambda _: httpx2.Response(
            simulated.status, json=simulated.body("req_1"), headers=simulated.headers
        )
    )
    client = anthropic.AsyncAnthropic(
        api_key="any", max_retries=0, http_client=httpx2.AsyncClient(transport=transport)
    )

    with pytest.raises(SDK_ERRORS[fault]) as caught:
        await client.messages.create(
            model="claude", max_tokens=1, messages=[{"role": "user", "content": "Hello"}]
        )

    status, error_type, _, error_code = ERRORS[fault]
    assert (status, error_type) == (caught.value.status_code, caught.value.type)
    assert error_code == caught.value.error_code


@pytest.mark.parametrize(
    ("rule", "retry_after"),
    [
        (FaultRule(fault=Fault.RATE_LIMIT), "1"),
        (FaultRule(fault=Fault.RATE_LIMIT, retry_after="9"), "9"),
        (FaultRule(fault=Fault.RAMP_LIMIT), "1"),
        (FaultRule(fault=Fault.OVERLOADED), None),
    ],
)
def test_a_rate_limit_says_when_to_come_back(rule, retry_after):
    """As Claude's API does; an overload does only if told to."""
    error = error_of(rule)

    assert error is not None
    assert error.retry_after == retry_after


def test_only_limits_say_when_to_come_back():
    """A spend limit is a 429 too, and knows no such time."""
    assert {Fault.RATE_LIMIT, Fault.RAMP_LIMIT} == set(RETRY_AFTER)


@pytest.mark.parametrize(
    "fault",
    [
        None,
        Fault.HANG,
        Fault.DROP,
        Fault.GARBAGE,
        Fault.BAD_GATEWAY,
        Fault.MIDSTREAM_OVERLOADED,
        Fault.MIDSTREAM_ERROR,
        Fault.TRUNCATED_STREAM,
        Fault.PAUSE_TURN,
    ],
)
def test_other_faults_are_no_error_answers(fault):
    """They happen on the way."""
    assert error_of(FaultRule(fault=fault)) is None


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ({}, (500, "api_error", None)),
        ({"error_type": "billing_error"}, (402, "billing_error", None)),
        ({"error_type": "new_error"}, (500, "new_error", None)),
        (
            {"error_type": "permission_error", "status": 418, "error_code": "new_code"},
            (418, "permission_error", "new_code"),
        ),
    ],
)
def test_any_error_can_be_described(rule, expected):
    """Also one that the API will have only tomorrow."""
    error = error_of(FaultRule(fault=Fault.ERROR, **rule))

    assert error is not None
    assert expected == (error.status, error.error_type, error.error_code)


def test_a_stream_can_end_in_any_error():
    """Overload is the usual one."""
    usual = midstream_error_of(FaultRule(fault=Fault.MIDSTREAM_OVERLOADED))
    other = midstream_error_of(
        FaultRule(fault=Fault.MIDSTREAM_ERROR, error_type="timeout_error", message="Too slow")
    )

    assert usual is not None
    assert usual.error_type == "overloaded_error"
    assert other is not None
    assert ("timeout_error", "Too slow") == (other.error_type, other.message)
    assert midstream_error_of(FaultRule(fault=Fault.OVERLOADED)) is None
