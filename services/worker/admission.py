"""Whether Claude may be asked now, as far as its limits go."""

from typing import Generic, Protocol, TypeVar

from services.core.errors import (
    ClaudeError,
    ClaudeOverloadedError,
    ClaudeRateLimitedError,
    ClaudeUnavailableError,
)
from services.core.rate_limits import SeenLimits
from services.core.runs.call_limiter import CallFault
from services.core.usage import Usage

Ticket = TypeVar("Ticket")


class Admits(Protocol, Generic[Ticket]):
    """What services.core.runs.call_limiter.CallLimiter does."""

    async def admit(self, model: str, *, input_tokens: int, output_tokens: int) -> Ticket:
        """Wait for a moment until the call may be made.

        Raises:
            CallParkedError: It may not for longer; BreakerOpenError if another model may be asked.
        """
        ...

    async def note_answer(self, ticket: Ticket, *, usage: Usage, seen: SeenLimits | None) -> None:
        """Tell what the call used."""
        ...

    async def note_error(
        self,
        ticket: Ticket,
        fault: CallFault,
        *,
        retry_after_s: float | None = None,
        seen: SeenLimits | None = None,
        usage: Usage | None = None,
    ) -> None:
        """Tell how the call failed."""
        ...

    async def note_unmade(self, ticket: Ticket) -> None:
        """Tell that the call was not made."""
        ...


class FreeAdmission:
    """Lets everybody through, for workers alone with their Claude."""

    async def admit(self, model: str, *, input_tokens: int, output_tokens: int) -> None:
        """Go."""

    async def note_answer(self, ticket: None, *, usage: Usage, seen: SeenLimits | None) -> None:
        """Learn nothing."""

    async def note_error(self, ticket: None, fault: CallFault, **_facts: object) -> None:
        """Learn nothing."""

    async def note_unmade(self, ticket: None) -> None:
        """Learn nothing."""


def fault_of(error: ClaudeError) -> CallFault:
    """What an error says of Claude's limits."""
    if isinstance(error, ClaudeOverloadedError):  # also a ClaudeRateLimitedError
        return CallFault.OVERLOADED
    if isinstance(error, ClaudeRateLimitedError):
        return CallFault.RATE_LIMITED
    if isinstance(error, ClaudeUnavailableError):
        return CallFault.UNAVAILABLE
    return CallFault.OTHER
