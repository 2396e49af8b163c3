"""What steps see of Claude."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from typing import Any, Generic, Protocol, TypeVar

from pydantic import BaseModel

from services.core.rate_limits import SeenLimits
from services.core.usage import Usage

Answer = TypeVar("Answer", bound=BaseModel)
Json = dict[str, Any]
OnText = Callable[[str], Awaitable[None]]
"""Takes each piece of answer text as it arrives."""


class Truncation(StrEnum):
    """What is to follow when an answer reaches max_tokens before its end."""

    FAIL = "fail"
    CONTINUE = "continue"
    """Claude is asked to go on where it stopped, a few times at most."""


@dataclass(frozen=True, slots=True)
class ClaudeRequest:
    """One question to Claude."""

    system: str
    prompt: str
    max_tokens: int = 4096
    """Of one answer; one that is continued has as many each time."""
    model: str | None = None
    """None means the configured model (ANTHROPIC_MODEL)."""
    trace_key: str | None = None
    """Opaque key to find the call again, such as the run id; Claude gets it as metadata.user_id."""
    shared: str = ""
    """Text that goes before the prompt and that several calls of one run share: Claude reads it from
    its cache."""
    allows_fallback: bool = False
    """While the model is overloaded, the configured other one (ANTHROPIC_FALLBACK_MODEL) may be asked."""
    on_truncation: Truncation = Truncation.FAIL
    written: str = ""
    """The answer so far, if it was cut off: Claude goes on where it stops, without a schema."""


@dataclass(frozen=True, slots=True)
class ClaudeReply(Generic[Answer]):
    """Claude's answer, and what it cost."""

    answer: Answer
    model: str
    usage: Usage
    cost_usd: Decimal
    is_simulated: bool
    kept: Json
    """All that Claude.reread() needs, as JSON."""
    seen_limits: SeenLimits | None = None
    """Claude's limits, as the answer's headers showed them."""


@dataclass(frozen=True, slots=True)
class CallEstimate:
    """What a call is likely to use; no bound."""

    model: str
    input_tokens: int
    output_tokens: int


class Claude(Protocol):
    """Asks Claude, once: no retries here, they belong to the record."""

    async def ask(
        self,
        request: ClaudeRequest,
        answer_type: type[Answer],
        *,
        on_text: OnText | None = None,
        ceiling_usd: Decimal | None = None,
    ) -> ClaudeReply[Answer]:
        """Get an answer of the given type.

        Args:
            request: What to ask.
            answer_type: The model whose JSON Schema the answer must fit.
            on_text: Called with each piece of text while it streams in.
            ceiling_usd: What is reserved for it, if that is less than worst_case_usd() by bytes: an
                answer is not continued where that could cost more.

        Raises:
            ClaudeError: One of its kinds; see services.core.errors. Its `usage` and `cost_usd` tell
                what a call that was paid for and gave nothing has used.
            ClaudeNotConfiguredError: There is neither a key nor a simulator.
        """
        ...

    def reread(self, kept: Json, answer_type: type[Answer]) -> ClaudeReply[Answer]:
        """Read an answer again, from `ClaudeReply.kept` or keep_messages().

        Raises:
            ClaudeTruncatedError: It was cut off; and so on, as ask() would have raised.
            ClaudeMalformedAnswerError: It does not fit the type.
        """
        ...

    def question(self, request: ClaudeRequest, answer_type: type[BaseModel]) -> bytes:
        """SHA-256 of all that Claude is asked with, metadata apart."""
        ...

    def estimate(self, request: ClaudeRequest, answer_type: type[BaseModel]) -> CallEstimate:
        """What the call is likely to use, by its size and by what such calls used before."""
        ...

    def fallback_of(self, request: ClaudeRequest) -> str | None:
        """The model to ask while the request's own is overloaded; None: that one is waited for."""
        ...

    def worst_case_usd(
        self,
        request: ClaudeRequest,
        answer_type: type[BaseModel],
        *,
        input_tokens: int | None = None,
        is_batch: bool = False,
    ) -> Decimal:
        """What the call costs at most.

        Args:
            request: What is to be asked.
            answer_type: The answer's type; its schema is part of the input.
            input_tokens: What count_tokens() said; None: no more tokens than bytes.
            is_batch: It is asked in a message batch.
        """
        ...

    async def count_tokens(self, request: ClaudeRequest, answer_type: type[BaseModel]) -> int:
        """Let Claude count the input's tokens, which costs nothing.

        Raises:
            ClaudeError: As ask().
            ClaudeNotConfiguredError: There is neither a key nor a simulator.
        """
        ...
