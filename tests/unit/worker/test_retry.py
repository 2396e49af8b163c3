"""The table from errors to tries."""

import pytest
from pydantic import BaseModel, ValidationError

from services.core import errors
from services.core.runs.states import FailureReason
from services.worker.retry import GiveUp, RetryAfter, RetryPolicy, decide

POLICY = RetryPolicy(max_attempts=5, backoff_s=2, backoff_max_s=60)
PERMANENT = GiveUp(FailureReason.PERMANENT)
LONGEST = 0.999999


def _validation_error() -> ValidationError:
    class Model(BaseModel):
        number: int

    try:
        Model.model_validate({"number": "x"})
    except ValidationError as error:
        return error
    raise AssertionError


def _decide(error: Exception, *, attempt: int = 1, random: float = 0.5) -> RetryAfter | GiveUp:
    return decide(error, attempt=attempt, policy=POLICY, random=lambda: random)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (errors.ClaudeRateLimitedError(), RetryAfter(1, is_counted=False)),
        (errors.ClaudeRateLimitedError(retry_after_s=20), RetryAfter(21, is_counted=False)),
        (errors.ClaudeRateLimitedError(retry_after_s=0), RetryAfter(1, is_counted=False)),
        (errors.ClaudeRateLimitedError(retry_after_s=-3), RetryAfter(1, is_counted=False)),
        (errors.ClaudeOverloadedError(retry_after_s=7), RetryAfter(8, is_counted=False)),
        (errors.ClaudeUnavailableError(), RetryAfter(1)),
        (errors.ClaudeUnavailableError(retry_after_s=30), RetryAfter(31)),
        (errors.ClaudeError(), RetryAfter(1)),
        (errors.ClaudeMalformedAnswerError(), RetryAfter(1)),
        (errors.StepTransientError(), RetryAfter(1)),
        (errors.StepExitError(), RetryAfter(1)),
        (OSError("reset"), RetryAfter(1)),
        (TimeoutError(), RetryAfter(1)),
        (KeyError("x"), RetryAfter(1)),
        (errors.ClaudeSpendLimitError(), GiveUp(FailureReason.BUDGET_EXCEEDED)),
        (errors.ClaudeRejectedError(), PERMANENT),
        (errors.ClaudeRefusedError(), PERMANENT),
        (errors.ClaudeTruncatedError(), PERMANENT),
        (errors.ClaudeNotConfiguredError(), PERMANENT),
        (errors.StepInputError(), PERMANENT),
        (_validation_error(), PERMANENT),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_each_error_has_its_consequence(error: Exception, expected: RetryAfter | GiveUp) -> None:
    """Errors of the moment are tried again, others end the run at once."""
    assert expected == _decide(error)


def test_every_claude_and_step_error_is_decided_on_purpose() -> None:
    """A new kind of error must be put into this table's test."""
    known = {
        errors.ClaudeError,
        errors.ClaudeRateLimitedError,
        errors.ClaudeOverloadedError,
        errors.ClaudeUnavailableError,
        errors.ClaudeMalformedAnswerError,
        errors.ClaudeSpendLimitError,
        errors.ClaudeRejectedError,
        errors.ClaudeRefusedError,
        errors.ClaudeTruncatedError,
        errors.StepError,
        errors.StepExitError,
        errors.StepInputError,
        errors.StepTransientError,
    }
    kinds = {
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, errors.ClaudeError | errors.StepError)
    }

    assert known == kinds


def test_delays_double_up_to_the_longest() -> None:
    """Full jitter: anything between nothing and a bound that doubles with each try."""
    policy = RetryPolicy(max_attempts=100, backoff_s=2, backoff_max_s=60)

    longest = [
        decide(OSError(), attempt=n, policy=policy, random=lambda: 1.0) for n in (1, 2, 3, 6, 99)
    ]
    shortest = decide(OSError(), attempt=6, policy=policy, random=lambda: 0.0)

    assert [RetryAfter(s) for s in (2, 4, 8, 60, 60)] == longest
    assert RetryAfter(0) == shortest


def test_claudes_retry_after_is_bounded() -> None:
    """Claude may ask for an hour; the run is tried again after the longest delay."""
    decision = _decide(errors.ClaudeRateLimitedError(retry_after_s=3600), random=0)

    assert RetryAfter(60, is_counted=False) == decision


def test_a_busy_claude_is_waited_for_ever_longer_and_never_given_up() -> None:
    """Its limits are nobody's failure: no try counts, and the deadline alone ends the waiting."""
    policy = RetryPolicy(max_attempts=2, backoff_s=2, backoff_max_s=60)
    delays = [
        decide(
            errors.ClaudeOverloadedError(),
            attempt=1,
            started=started,
            policy=policy,
            random=lambda: 1.0,
        )
        for started in (1, 2, 3, 99)
    ]

    assert [RetryAfter(s, is_counted=False) for s in (2, 4, 8, 60)] == delays


def test_a_budget_that_is_used_up_ends_the_run() -> None:
    """Until somebody raises it, no try can help."""
    expected = GiveUp(FailureReason.BUDGET_EXCEEDED)

    assert expected == _decide(errors.BudgetExceededError())


def test_the_last_try_gives_up() -> None:
    """After max_attempts tries the run fails and says so."""
    assert isinstance(_decide(OSError(), attempt=4), RetryAfter)
    assert GiveUp(FailureReason.RETRIES_EXHAUSTED) == _decide(OSError(), attempt=5)
    assert PERMANENT == _decide(errors.StepInputError(), attempt=5)


def test_a_thousandth_try_does_not_overflow() -> None:
    """However large the number of tries, the delay is a number within the bound."""
    policy = RetryPolicy(max_attempts=10**6, backoff_s=2, backoff_max_s=60)

    decision = decide(OSError(), attempt=5000, policy=policy, random=lambda: LONGEST)

    assert isinstance(decision, RetryAfter)
    assert decision.delay_s <= 60
