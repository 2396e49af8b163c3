"""The span of a call to Claude: what was asked of which model, and what it used; no content.

Names are those of OpenTelemetry's conventions for generative AI. The SDK's own spans are off: they
know neither cost nor our errors, and each call would count twice.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from anthropic.types import Message

from services.core.claude.cost import Spend
from services.core.claude.protocol import ClaudeRequest
from services.core.claude.turns import text_of
from services.core.errors import ClaudeError
from services.core.telemetry import annotate, record_content, span


@contextmanager
def chat_span(request: ClaudeRequest, *, model: str, server: str) -> Iterator[None]:
    """A span around one call.

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
    with span(f"chat {model}", **attributes):
        record_content(system=request.system, prompt=request.prompt)
        try:
            yield
        except ClaudeError as error:
            annotate(**{"error.type": error.error_type or type(error).__name__})
            raise


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
