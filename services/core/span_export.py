"""What happens to spans on their way out: no housekeeping, no secrets, and a dead backend costs little."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Final

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import Event, ReadableSpan, SpanProcessor
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import Decision, Sampler, SamplingResult, TraceIdRatioBased
from opentelemetry.trace import Link, SpanKind, Status, TraceState
from opentelemetry.util.types import Attributes
from typing_extensions import override

from services.core.clock import monotonic_s
from services.core.open_spans import is_pending
from services.core.scrubbing import REDACTED, may_hold_secret, names_secret, scrub

EXPORT_TIMEOUT_S: Final = 3.0
EXPORT_PAUSE_S: Final = 30.0
# A killed process loses what it has not sent; the default of 5 s is a lot of spans.
EXPORT_EVERY_MS: Final = 1000

_LOGGER: Final = logging.getLogger(__name__)


def create_otlp_processor() -> SpanProcessor:
    """Sends spans in batches to the backend that the OTEL_EXPORTER_OTLP_* variables name."""
    exporter = PausingExporter(OTLPSpanExporter(timeout=EXPORT_TIMEOUT_S))
    return _OtlpProcessor(exporter, schedule_delay_millis=EXPORT_EVERY_MS)


class _OtlpProcessor(BatchSpanProcessor):
    """Pending spans mean something to Logfire only."""

    @override
    def on_end(self, span: ReadableSpan) -> None:
        """Have the span sent."""
        if not is_pending(span):
            super().on_end(span)


class HeadSampler(Sampler):
    """Decides about a trace at its first span: its share of requests, and no messages that no request caused.

    Those are sweeps, probes and health checks, every few seconds for ever.
    """

    def __init__(self, rate: float = 1.0) -> None:
        self._by_trace = TraceIdRatioBased(rate)

    @override
    def should_sample(
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: SpanKind | None = None,
        attributes: Attributes = None,
        links: Sequence[Link] | None = None,
        trace_state: TraceState | None = None,
    ) -> SamplingResult:
        """Decide about a span without a parent."""
        is_message = kind in (SpanKind.PRODUCER, SpanKind.CONSUMER)
        if is_message:
            return SamplingResult(Decision.DROP, attributes, trace_state)
        return self._by_trace.should_sample(parent_context, trace_id, name, attributes=attributes)

    @override
    def get_description(self) -> str:
        """Its name in diagnostics."""
        return f"HeadSampler({self._by_trace.rate})"


class SecretScrubber(SpanProcessor):
    """Removes secrets from all of a span: by their form, and what has the name of one.

    In place of Logfire's scrubbing, which goes by words, spares messages and URLs, says why it scrubbed something by
    quoting the match, and takes a tenth of all that a span costs.
    """

    @override
    def on_end(self, span: ReadableSpan) -> None:
        """Clean the finished span in place: exporters come after this processor and see the same object."""
        if not may_hold_secret(_text_of(span)):
            return
        span._name = scrub(span.name)  # noqa: SLF001 - a finished span has no setters
        span._attributes = _scrub_value(span.attributes)  # noqa: SLF001 - see above
        span._events = [_scrub_event(event) for event in span.events]  # noqa: SLF001 - see above
        span._links = [_scrub_link(link) for link in span.links]  # noqa: SLF001 - see above
        if span.status.description:
            span._status = Status(span.status.status_code, scrub(span.status.description))  # noqa: SLF001 - see above


def _text_of(span: ReadableSpan) -> str:
    """All names and values of a span, to look at together: few spans have anything that is worth a second look."""
    events = [(event.name, event.attributes) for event in span.events]
    links = [link.attributes for link in span.links]
    return str((span.name, span.attributes, events, links, span.status.description))


def _scrub_event(event: Event) -> Event:
    return Event(scrub(event.name), _scrub_value(event.attributes), event.timestamp)


def _scrub_link(link: Link) -> Link:
    return Link(link.context, _scrub_value(link.attributes))


def _scrub_value(value: Any) -> Any:
    if isinstance(value, str):
        return scrub(value)
    if isinstance(value, Mapping):
        return {
            key: REDACTED if names_secret(key) else _scrub_value(item)
            for key, item in value.items()
        }
    if isinstance(value, Sequence) and not isinstance(value, bytes):
        return [_scrub_value(item) for item in value]
    return value


class PausingExporter(SpanExporter):
    """Drops spans for a while after the backend failed, so that a dead one never holds up a process."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter
        self._paused_until_s: float | None = None

    @override
    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send a batch, unless the backend failed a moment ago."""
        if self._paused_until_s is not None and monotonic_s() < self._paused_until_s:
            return SpanExportResult.FAILURE
        result = self._exporter.export(spans)
        if result is SpanExportResult.SUCCESS:
            self._note_success()
        else:
            self._note_failure()
        return result

    def _note_failure(self) -> None:
        if self._paused_until_s is None:
            _LOGGER.warning("The OTLP endpoint does not take spans; they are dropped until it does")
        self._paused_until_s = monotonic_s() + EXPORT_PAUSE_S

    def _note_success(self) -> None:
        if self._paused_until_s is not None:
            _LOGGER.warning("The OTLP endpoint takes spans again")
        self._paused_until_s = None

    @override
    def shutdown(self) -> None:
        """Close the connection; the backend is not waited for."""
        self._exporter.shutdown()

    @override
    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Nothing is buffered here."""
        return self._exporter.force_flush(timeout_millis)
