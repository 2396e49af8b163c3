"""Everything that can go wrong in Penstock, in one tree.

PenstockError
├── RunError
│   ├── RunNotFoundError
│   ├── RunNotCancellableError
│   ├── RunNotReplayableError
│   ├── ReplayStepError
│   ├── LeaseLostError
│   ├── IdempotencyConflictError
│   ├── KeyRevokedError
│   └── QueueFullError
├── StoreUnavailableError
│   └── StoreFullError
├── CallParkedError
│   └── BreakerOpenError
├── BudgetExceededError
├── BudgetBusyError
├── ClaudeNotConfiguredError
├── ClaudeError
│   ├── ClaudeRateLimitedError
│   │   └── ClaudeOverloadedError
│   ├── ClaudeSpendLimitError
│   ├── ClaudeUnavailableError
│   │   └── MessageBatchInDoubtError
│   ├── ClaudeRejectedError
│   ├── ClaudeRefusedError
│   ├── ClaudeTruncatedError
│   └── ClaudeMalformedAnswerError
└── StepError
    ├── StepExitError
    ├── StepInputError
    └── StepTransientError

Errors say what happened. What follows is in two tables: api/errors.py (status and problem type) and
worker/retry.py (when to try again, or give up with which reason).
"""

from decimal import Decimal

from services.core.rate_limits import SeenLimits
from services.core.usage import Usage


class PenstockError(Exception):
    """Something went wrong in Penstock."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or (type(self).__doc__ or "").strip().splitlines()[0])


class RunError(PenstockError):
    """The run does not allow that."""


class RunNotFoundError(RunError):
    """There is no such run."""


class RunNotCancellableError(RunError):
    """The run has ended already."""


class RunNotReplayableError(RunError):
    """The run has not failed, nor was it cancelled, so it cannot be replayed."""


class ReplayStepError(RunError):
    """The run cannot be replayed from that step."""


class LeaseLostError(RunError):
    """Another worker has taken the run, or it was cancelled."""


class IdempotencyConflictError(RunError):
    """The idempotency key was used before with another body."""


class KeyRevokedError(RunError):
    """The key that the run would belong to is not valid any more."""


class QueueFullError(RunError):
    """Too many runs are queued."""

    def __init__(self, *, retry_after_s: float) -> None:
        super().__init__()
        self.retry_after_s = retry_after_s


class StoreUnavailableError(PenstockError):
    """PostgreSQL cannot be reached or does not answer in time."""


class StoreFullError(StoreUnavailableError):
    """PostgreSQL's disk is full: it stores nothing until there is room again."""


class CallParkedError(PenstockError):
    """Nothing is wrong, but Claude cannot be asked now; meanwhile the run holds no slot."""

    def __init__(self, *, wait_s: float, reason: str) -> None:
        """Say when to come again.

        Args:
            wait_s: Seconds until then, at the latest.
            reason: "rate_limit", "overload", "budget" or "batch".
        """
        super().__init__(f"The call waits: {reason}.")
        self.wait_s = wait_s
        self.reason = reason


class BreakerOpenError(CallParkedError):
    """Claude is overloaded: for a while it is not asked for this model. Another one may work."""

    def __init__(self, *, wait_s: float) -> None:
        super().__init__(wait_s=wait_s, reason="overload")


class BudgetExceededError(PenstockError):
    """The call could cost more than is left of the budget."""


class BudgetBusyError(PenstockError):
    """Calls under way have reserved what is left of the budget; they will cost less than that."""

    def __init__(self, *, scope: str) -> None:
        """Say whose budget it is.

        Args:
            scope: "run", or "key" for the budget of a key's day.
        """
        super().__init__(f"Calls under way have reserved what is left of the {scope}'s budget.")
        self.scope = scope


class ClaudeNotConfiguredError(PenstockError):
    """No ANTHROPIC_API_KEY is set, so no run can be accepted."""


class ClaudeError(PenstockError):
    """A call to Claude failed."""

    usage: Usage | None = None
    """Tokens that Claude had reported before the call failed; None where it reported none."""
    cost_usd: Decimal | None = None
    """What those tokens cost."""
    is_cost_final: bool = True
    """False where nobody has seen the call's end: Claude may have gone on with it, at our expense."""
    seen_limits: SeenLimits | None = None
    """Claude's limits, as the answer's headers showed them."""

    def __init__(
        self,
        message: str | None = None,
        *,
        error_type: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        """Say what happened.

        Args:
            message: For logs and for the run; no content.
            error_type: Claude's own word for it, or ours.
            retry_after_s: Seconds to wait before the next try, if the answer tells.
        """
        super().__init__(message)
        self.error_type = error_type
        self.retry_after_s = retry_after_s


class ClaudeRateLimitedError(ClaudeError):
    """Claude's rate limit was reached."""


class ClaudeSpendLimitError(ClaudeError):
    """A spend limit was reached; trying again soon cannot help."""


class ClaudeOverloadedError(ClaudeRateLimitedError):
    """Claude is overloaded."""


class ClaudeUnavailableError(ClaudeError):
    """Claude did not answer, or answered with a server error."""


class MessageBatchInDoubtError(ClaudeUnavailableError):
    """Claude may have taken the message batch, or not."""


class ClaudeRejectedError(ClaudeError):
    """Claude refused the request as wrong, unauthorised or too large."""


class ClaudeRefusedError(ClaudeError):
    """Claude declined to answer."""


class ClaudeTruncatedError(ClaudeError):
    """The answer reached max_tokens before its end."""


class ClaudeMalformedAnswerError(ClaudeError):
    """The answer does not fit the schema."""


class StepError(PenstockError):
    """A step could not do its work."""


class StepExitError(StepError):
    """The step tried to end its process."""


class StepInputError(StepError):
    """The input makes this step impossible; trying again cannot help."""


class StepTransientError(StepError):
    """Something outside failed for now; trying again may help."""
