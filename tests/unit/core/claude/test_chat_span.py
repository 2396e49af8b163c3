"""services.core.claude.chat_span: one span for each call, without content."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from pydantic import BaseModel

from services.core import telemetry
from services.core.claude.protocol import ClaudeRequest, Truncation
from services.core.errors import ClaudeError
from tests.unit.core.claude.messages_api import MessagesApi, claude_for, message_events, sse

REQUEST = ClaudeRequest(system="secret-system", prompt="secret-prompt", max_tokens=50)


class Word(BaseModel):
    """What is asked for."""

    word: str


@pytest.fixture
def exporter(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    """Keeps every span, ours and the SDK's."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(telemetry, "_TRACER", provider.get_tracer("test"))
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)
    yield exporter
    provider.shutdown()


def only(exporter: InMemorySpanExporter) -> ReadableSpan:
    """The one span of the test."""
    (span,) = exporter.get_finished_spans()
    return span


async def test_a_call_has_one_span_with_usage_and_cost(exporter):
    """Model, tokens and cost are there; the SDK adds no second span."""
    api = MessagesApi(sse(*message_events('{"word": "secret-answer"}', cache_read_input_tokens=7)))

    await claude_for(api).ask(REQUEST, Word)

    span = only(exporter)
    assert span.name == "chat claude-sonnet-5-5"
    assert dict(span.attributes or {}) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "anthropic",
        "gen_ai.request.model": "claude-sonnet-5-5",
        "gen_ai.request.max_tokens": 50,
        "gen_ai.request.stream": True,
        "gen_ai.output.type": "json",
        "server.address": "api.anthropic.com",
        "gen_ai.response.id": "msg_1",
        "gen_ai.response.model": "claude-sonnet-5-5",
        "gen_ai.response.finish_reasons": "end_turn",
        "gen_ai.usage.input_tokens": 100,
        "gen_ai.usage.output_tokens": 20,
        "gen_ai.usage.cache_read.input_tokens": 7,
        "gen_ai.usage.cache_creation.input_tokens": 0,
        "operation.cost": pytest.approx(0.0004007),
        "penstock.cost_is_estimated": False,
        "penstock.is_simulated": False,
    }
    assert "secret" not in span.to_json()


@pytest.mark.parametrize(
    ("stop_reason", "expected"), [("end_turn", "malformed"), ("max_tokens", "max_tokens")]
)
async def test_a_failed_call_says_why_and_what_it_used(exporter, stop_reason, expected):
    """The span of a useless answer has its error and its cost, and still no content."""
    events = message_events('{"word": ["secret-answer"]}', stop_reason=stop_reason)

    with pytest.raises(ClaudeError):
        await claude_for(MessagesApi(sse(*events))).ask(REQUEST, Word)

    span = only(exporter)
    attributes = span.attributes or {}
    assert attributes["error.type"] == expected
    assert attributes["gen_ai.usage.output_tokens"] == 20
    assert not span.status.is_ok
    assert "secret" not in span.to_json()


async def test_a_continued_answer_has_one_span(exporter):
    """It is one call, with the sum of what its turns used."""
    cut = sse(*message_events('{"word": "y', stop_reason="max_tokens"))
    api = MessagesApi(sse(*message_events('es"}')), before=[cut])
    request = replace(REQUEST, on_truncation=Truncation.CONTINUE)

    await claude_for(api).ask(request, Word)

    attributes = only(exporter).attributes or {}
    assert attributes["gen_ai.usage.output_tokens"] == 40
    assert attributes["gen_ai.response.finish_reasons"] == "end_turn"
    assert attributes["operation.cost"] == pytest.approx(0.0008)
