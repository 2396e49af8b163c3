"""What follows from an error: when to try a step again, or why to give up. A pure table."""

from collections.abc import Callable
from dataclasses import dataclass

from pydantic import ValidationError

from services.core.claude.outcomes import Follow, follow_of
from services.core.errors import (
    BudgetExceededError,
    ClaudeError,
    ClaudeNotConfiguredError,
    StepInputError,
)
from services.core.runs.states import FailureReason

PERMANENT_ERRORS = (ClaudeNotConfiguredError, StepInputError, ValidationError)
"""Trying again cannot help. Claude's errors are in services.core.claude.outcomes; every other error may
be of the moment: a try costs less than a lost run."""
REASONS = {
    Follow.GIVE_UP: FailureReason.PERMANENT,
    Follow.ASK_FOR_BUDGET: FailureReason.BUDGET_EXCEEDED,
}


@dataclass(frozen=True, slots=True)
class RetryAfter:
    """Try the step again, after a while."""

    delay_s: float
    is_counted: bool = True
    """Whether the try counts: Claude's being busy is nobody's failure."""


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Fail the run."""

    reason: FailureReason


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Bounds on trying again."""

    max_attempts: int
    """Tries of one step."""
    backoff_s: float
    """Longest delay after the first try, in seconds; doubles with each further one."""
    backoff_max_s: float
    """Longest delay of all, in seconds; also bounds what Claude asks for."""


def decide(
    error: Exception,
    *,
    attempt: int,
    started: int = 0,
    policy: RetryPolicy,
    random: Callable[[], float],
) -> RetryAfter | GiveUp:
    """What follows from a step's error.

    Args:
        error: What the step raised.
        attempt: Number of the try that raised it, from 1; only tries that count.
        started: The same with those that do not count. While Claude is busy it makes waits longer.
        policy: Bounds on trying again.
        random: Gives a number in [0, 1).
    """
    reason = _reason_to_give_up(error)
    if reason is not None:
        return GiveUp(reason)
    if isinstance(error, ClaudeError) and follow_of(error) is Follow.WAIT:
        tries = max(attempt, started)
        delay_s = _delay_s(error, attempt=tries, policy=policy, random=random)
        return RetryAfter(delay_s, is_counted=False)
    if attempt >= policy.max_attempts:
        return GiveUp(FailureReason.RETRIES_EXHAUSTED)
    return RetryAfter(_delay_s(error, attempt=attempt, policy=policy, random=random))


def _reason_to_give_up(error: Exception) -> FailureReason | None:
    """Why no further try can help; None if one may."""
    if isinstance(error, ClaudeError):
        return REASONS.get(follow_of(error))
    if isinstance(error, BudgetExceededError):
        return FailureReason.BUDGET_EXCEEDED
    return FailureReason.PERMANENT if isinstance(error, PERMANENT_ERRORS) else None


def _delay_s(
    error: Exception, *, attempt: int, policy: RetryPolicy, random: Callable[[], float]
) -> float:
    """Exponential backoff with full jitter, on top of what Claude asks for.

    Full jitter spreads runs that failed together over the whole interval (AWS Architecture Blog,
    "Exponential Backoff And Jitter").
    """
    # 2**62 is beyond every bound and still a float; more attempts must not overflow.
    backoff_s = min(policy.backoff_max_s, policy.backoff_s * 2.0 ** min(attempt - 1, 62))
    asked_s = error.retry_after_s if isinstance(error, ClaudeError) else None
    return min(policy.backoff_max_s, max(0.0, asked_s or 0.0)) + random() * backoff_s
