"""The limits of Claude that all workers of all hosts share."""

from dataclasses import dataclass
from enum import StrEnum

from services.core.rate_limits import SeenLimits
from services.core.usage import Usage


class CallFault(StrEnum):
    """Why a call failed, as far as limits go."""

    RATE_LIMITED = "rate_limited"
    """429 for requests or tokens: everybody pauses."""
    OVERLOADED = "overloaded"
    """529: everybody slows down; several in a row open the breaker."""
    UNAVAILABLE = "unavailable"
    """5xx, or no answer at all: likewise."""
    OTHER = "other"
    """Claude works, and did not like this call."""


@dataclass(frozen=True, slots=True)
class Admission:
    """The right to make one call now. Its end is told once: answer, error or not made."""

    model: str
    input_tokens: int
    output_tokens: int


class CallLimiter:
    """Admits calls at the rate that Claude allows; shares claude_limits with all processes.

    A limiter belongs to one event loop.
    """

    async def admit(self, model: str, *, input_tokens: int, output_tokens: int) -> Admission:
        """Wait for up to about a second until the call may be made.

        Args:
            model: Whose limits count.
            input_tokens: Estimate, without what will be read from the cache.
            output_tokens: Estimate.

        Raises:
            CallParkedError: There is no room for now (reason "rate_limit").
            BreakerOpenError: Claude is overloaded; another model may be asked. A CallParkedError
                with reason "overload".
            StoreUnavailableError: No answer in time.
        """
        raise NotImplementedError

    async def note_answer(
        self, ticket: Admission, *, usage: Usage, seen: SeenLimits | None
    ) -> None:
        """Replace the estimates by what was used, and learn from what the headers said."""
        raise NotImplementedError

    async def note_error(
        self,
        ticket: Admission,
        fault: CallFault,
        *,
        retry_after_s: float | None = None,
        seen: SeenLimits | None = None,
        usage: Usage | None = None,
    ) -> None:
        """Slow everybody down, as the fault demands. Usage: if the failed call reported one."""
        raise NotImplementedError

    async def note_unmade(self, ticket: Admission) -> None:
        """Give the room back: the call was not made, for lack of budget for instance."""
        raise NotImplementedError
