"""What steps see of Claude."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Generic, Protocol, TypeVar

from pydantic import BaseModel

from services.core.usage import Usage

Answer = TypeVar("Answer", bound=BaseModel)
OnText = Callable[[str], Awaitable[None]]
"""Takes each piece of answer text as it arrives."""


@dataclass(frozen=True, slots=True)
class ClaudeRequest:
    """One question to Claude."""

    system: str
    prompt: str
    max_tokens: int = 4096
    model: str | None = None
    """None means the configured model (ANTHROPIC_MODEL)."""
    trace_key: str | None = None
    """Opaque key to find the call again, such as the run id; Claude gets it as metadata.user_id."""


@dataclass(frozen=True, slots=True)
class ClaudeReply(Generic[Answer]):
    """Claude's answer, and what it cost."""

    answer: Answer
    model: str
    usage: Usage
    cost_usd: Decimal
    is_simulated: bool


class Claude(Protocol):
    """Asks Claude, once: no retries here, they belong to the record."""

    async def ask(
        self,
        request: ClaudeRequest,
        answer_type: type[Answer],
        *,
        on_text: OnText | None = None,
    ) -> ClaudeReply[Answer]:
        """Get an answer of the given type.

        Args:
            request: What to ask.
            answer_type: The model whose JSON Schema the answer must fit.
            on_text: Called with each piece of text while it streams in.

        Raises:
            ClaudeError: One of its kinds; see services.core.errors. Its `usage` and `cost_usd` tell
                what a call that was paid for and gave nothing has used.
            ClaudeNotConfiguredError: There is neither a key nor a simulator.
        """
        ...
