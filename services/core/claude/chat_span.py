"""The span of a call to Claude: what was asked of which model, and what it used; no content.

Names are those of OpenTelemetry's conventions for generative AI. The SDK's own spans are off: they
know neither cost nor our errors, and each call would count twice.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any

from anthropic.types import Message

from services.core.claude.cost import Spend
from services.core.claude.protocol import ClaudeRequest
from services.core.claude.turns import text_of
from services.core.errors import ClaudeError
from services.core.telemetry import annotate, record_content, span


class ChatSpan(AbstractContextManager[None]):
    """A span around one call; a class, and not a generator, as thousands wait within one."""

    __slots__ = ("_request", "_span")

    def __init__(self, request: ClaudeRequest, *, model: str, server: str) -> None:
        """Take what it tells.

        Args:
            request: What is asked; only its size limit gets into the span, unless content is captured.
            model: The model that is asked.
            server: Host name of the API or the simulator.
        """
        attributes: dict[str, Any] = {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": "anthropic",
            "gen_ai.request.model": model,
            "gen_ai.request.max_tokens": request.max_tokens,
            "gen_ai.request.stream": True,
            "gen_ai.output.type": "json",
            "server.address": server,
        }
        self._request = request
        self._span = span(f"chat {model}", **attributes)

    def __enter__(self) -> None:
        self._span.__enter__()
        record_content(system=self._request.system, prompt=self._request.prompt)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if isinstance(error, ClaudeError):
            annotate(**{"error.type": error.error_type or type(error).__name__})
        self._span.__exit__(kind, error, traceback)


def note_answer(messages: Sequence[Message], spend: Spend, *, is_simulated: bool) -> None:
    """Put into the span what an answer, whole or not, has used; several turns have one span."""
    message = messages[-1]
    annotate(
        **{
            "gen_ai.response.id": message.id,
            "gen_ai.response.model": message.model,
            "gen_ai.response.finish_reasons": message.stop_reason or "none",
            "gen_ai.usage.input_tokens": spend.usage.input_tokens,
            "gen_ai.usage.output_tokens": spend.usage.output_tokens,
            "gen_ai.usage.cache_read.input_tokens": spend.usage.cache_read_input_tokens,
            "gen_ai.usage.cache_creation.input_tokens": spend.usage.cache_creation_input_tokens,
            "operation.cost": float(spend.cost_usd),
            "penstock.cost_is_estimated": spend.is_estimated,
            "penstock.is_simulated": is_simulated,
        }
    )
    record_content(answer=text_of(messages))
