"""Spans lose their secrets, housekeeping is left out, and a dead backend costs little."""

import logging
from collections.abc import Sequence

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ParentBased
from opentelemetry.trace import INVALID_SPAN_CONTEXT, Link, SpanKind

from services.core import span_export
from services.core.span_export import HeadSampler, PausingExporter, SecretScrubber

KEY = "sk-ant-api03-abcdef"


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    """Keeps what was exported."""
    return InMemorySpanExporter()


@pytest.fixture
def provider(exporter: InMemorySpanExporter) -> TracerProvider:
    """Scrubs, then exports."""
    sampler = ParentBased(HeadSampler())
    provider = TracerProvider(sampler=sampler, shutdown_on_exit=False)
    provider.add_span_processor(SecretScrubber())
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return provider


def test_secrets_are_removed_from_every_part_of_a_span(
    provider: TracerProvider, exporter: InMemorySpanExporter
) -> None:
    """Name, attributes, lists, links, exception messages, stack traces and the status hold no key."""
    tracer = provider.get_tracer("test")

    def fail() -> None:
        attributes = {"url": f"http://x?k={KEY}", "keys": [KEY, "b"], "count": 3}
        links = [Link(INVALID_SPAN_CONTEXT, {"token": KEY})]
        with tracer.start_as_current_span(f"call {KEY}", attributes=attributes, links=links) as it:
            it.add_event(f"asked {KEY}", {"body": {"keys": [{"key": KEY}]}})
            raise ValueError(f"refused {KEY}")

    with pytest.raises(ValueError, match="refused"):
        fail()

    (finished,) = exporter.get_finished_spans()
    assert KEY not in finished.to_json()
    assert finished.attributes == {
        "url": "http://x?k=[redacted]",
        "keys": ["[redacted]", "b"],
        "count": 3,
    }
    asked, failed = finished.events
    assert asked.attributes == {"body": {"keys": [{"key": "[redacted]"}]}}
    assert failed.attributes["exception.type"] == "ValueError"


@pytest.mark.parametrize(
    "name", ["password", "db.PASSWD", "client_secret", "Authorization", "api-key", "sessionid"]
)
def test_what_has_the_name_of_a_secret_does_not_leave(
    name: str, provider: TracerProvider, exporter: InMemorySpanExporter
) -> None:
    """Whatever it looks like, and wherever it is; the names of others stay what they are."""
    values = {name: "hunter22", "author": "A", "input_tokens": 7, "idempotency_key": "k"}
    with provider.get_tracer("test").start_as_current_span("call", attributes=values) as span:
        span.add_event("sent", {"headers": {name: ["hunter22"]}})

    (finished,) = exporter.get_finished_spans()
    assert "hunter22" not in finished.to_json()
    assert finished.attributes == {**values, name: "[redacted]"}


@pytest.mark.parametrize("kind", [SpanKind.PRODUCER, SpanKind.CONSUMER])
def test_messages_are_traced_only_within_a_trace(
    kind: SpanKind, provider: TracerProvider, exporter: InMemorySpanExporter
) -> None:
    """Beat's sweeps and a worker's probes make no traces; a request's hints belong to its trace."""
    tracer = provider.get_tracer("test")
    with (
        tracer.start_as_current_span("housekeeping", kind=kind),
        tracer.start_as_current_span("below"),
    ):
        pass
    with tracer.start_as_current_span("request"), tracer.start_as_current_span("hint", kind=kind):
        pass

    assert [span.name for span in exporter.get_finished_spans()] == ["hint", "request"]


class FlakyExporter(SpanExporter):
    """Fails until told otherwise, and counts how often it was asked."""

    def __init__(self) -> None:
        self.is_dead = True
        self.calls = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Fail or succeed."""
        self.calls += 1
        return SpanExportResult.FAILURE if self.is_dead else SpanExportResult.SUCCESS


def test_a_dead_backend_is_left_alone_for_a_while(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """After a failure nothing is tried for 30 s; the outage and its end are each told once."""
    now_s = 100.0
    monkeypatch.setattr(span_export, "monotonic_s", lambda: now_s)
    flaky = FlakyExporter()
    exporter = PausingExporter(flaky)

    with caplog.at_level(logging.WARNING):
        for _ in range(50):
            assert exporter.export([]) is SpanExportResult.FAILURE
        assert flaky.calls == 1
        now_s += span_export.EXPORT_PAUSE_S
        exporter.export([])
        assert flaky.calls == 2
        flaky.is_dead = False
        now_s += span_export.EXPORT_PAUSE_S
        assert exporter.export([]) is exporter.export([]) is SpanExportResult.SUCCESS

    assert [record.getMessage() for record in caplog.records] == [
        "The OTLP endpoint does not take spans; they are dropped until it does",
        "The OTLP endpoint takes spans again",
    ]


def finished_with_rate(rate: float, *, parents: int) -> int:
    """How many of so many traces, of two spans each, were sampled as a whole."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider(sampler=ParentBased(HeadSampler(rate)), shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracer = provider.get_tracer("test")
    for _ in range(parents):
        with tracer.start_as_current_span("request"), tracer.start_as_current_span("run"):
            pass
    traces = [span.context.trace_id for span in exporter.get_finished_spans()]
    assert all(traces.count(trace) == 2 for trace in traces)
    return len(set(traces))


def test_a_share_of_traces_is_sampled_each_as_a_whole() -> None:
    """The first span decides for all others."""
    assert finished_with_rate(0, parents=50) == 0
    assert finished_with_rate(1, parents=50) == 50
    assert 0 < finished_with_rate(0.5, parents=200) < 200
