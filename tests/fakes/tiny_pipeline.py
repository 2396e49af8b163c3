"""A pipeline of two small steps whose first asks Claude; tests say what it does."""

import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any
from uuid import UUID

from pydantic import BaseModel

from services.core.claude.protocol import (
    Answer,
    CallEstimate,
    ClaudeReply,
    ClaudeRequest,
    Json,
    OnText,
)
from services.core.usage import Usage
from services.pipelines.definition import EmailDraft, Pipeline, Step, StepContext

EMAIL_ID = UUID("0190d3a0-0000-7000-8000-000000000001")


class Text(BaseModel):
    """What goes from step to step."""

    text: str


@dataclass
class ScriptedClaude:
    """Streams the given pieces, then answers them joined; or raises the next error."""

    pieces: tuple[str, ...] = ("Dear ", "Ada")
    errors: list[Exception] = field(default_factory=list)
    before_answer: Callable[[], Awaitable[None]] | None = None
    asked: list[ClaudeRequest] = field(default_factory=list)

    async def ask(
        self,
        request: ClaudeRequest,
        answer_type: type[Answer],
        *,
        on_text: OnText | None = None,
        ceiling_usd: Decimal | None = None,
    ) -> ClaudeReply[Answer]:
        """Answer as told."""
        self.asked.append(request)
        if self.errors:
            raise self.errors.pop(0)
        for piece in self.pieces:
            if on_text is not None:
                await on_text(piece)
        if self.before_answer is not None:
            await self.before_answer()
        return self.reread({"text": "".join(self.pieces)}, answer_type)

    def reread(self, kept: Json, answer_type: type[Answer]) -> ClaudeReply[Answer]:
        """The answer again."""
        return ClaudeReply(
            answer=answer_type.model_validate(kept),
            model="fake",
            usage=Usage(input_tokens=10, output_tokens=5),
            cost_usd=Decimal("0.01"),
            is_simulated=True,
            kept=kept,
        )

    def question(self, request: ClaudeRequest, answer_type: type[BaseModel]) -> bytes:
        """A hash of the prompt."""
        return hashlib.sha256(request.prompt.encode()).digest()

    def estimate(self, request: ClaudeRequest, answer_type: type[BaseModel]) -> CallEstimate:
        """Always the same."""
        return CallEstimate(request.model or "fake", input_tokens=10, output_tokens=5)

    def fallback_of(self, request: ClaudeRequest) -> str | None:
        """The spare one."""
        return "spare" if request.allows_fallback else None

    def worst_case_usd(
        self,
        request: ClaudeRequest,
        answer_type: type[BaseModel],
        *,
        input_tokens: int | None = None,
        is_batch: bool = False,
    ) -> Decimal:
        """Twice what a call costs; as much as it costs if the tokens were counted."""
        return Decimal("0.02") if input_tokens is None else Decimal("0.01")

    async def count_tokens(self, request: ClaudeRequest, answer_type: type[BaseModel]) -> int:
        """Always the same."""
        return 10


async def ask(given: Text, context: StepContext) -> Text:
    """Ask Claude about the text."""
    request = ClaudeRequest(system="", prompt=given.text)
    reply = await context.claude.ask(request, Text)
    return reply.answer


async def sign(given: Text, context: StepContext) -> Text:
    """Sign the text."""
    return Text(text=f"{given.text}, signed in try {context.attempt}")


def _draft(output: Text) -> EmailDraft:
    return EmailDraft(EMAIL_ID, "general", "Hello", output.text, {"simulated": True})


def tiny_pipeline(**changes: Any) -> Pipeline[Text]:
    """Two steps: `ask` and `sign`."""
    steps = changes.pop("steps", (Step(ask), Step(sign)))
    return Pipeline("tiny", "Two small steps.", steps, email_of=_draft, **changes)
