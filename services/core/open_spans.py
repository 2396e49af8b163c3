"""Spans that last: Logfire is told of them while they are open, so that a run that hangs is seen while it does."""

import threading
from typing import Final

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor
from typing_extensions import override

from services.core.clock import monotonic_s

TOLD_AFTER_S: Final = 5.0
LOOK_EVERY_S: Final = 1.0

# Logfire's own names and values.
_TYPE: Final = "logfire.span_type"
_PARENT: Final = "logfire.pending_parent_id"
_FINISHED: Final = "span"
_PENDING: Final = "pending_span"
# Of no meaning to Logfire, which sends a pending span for each that begins as a "span".
_OPEN: Final = "open_span"


def is_pending(span: ReadableSpan) -> bool:
    """Whether it only tells that another span is open."""
    return (span.attributes or {}).get(_TYPE) == _PENDING


class OpenSpans(SpanProcessor):
    """Has a pending span sent for each span that has been open for some seconds, instead of for each that begins.

    Nearly all end before anybody could look at them, and what is told of them by then costs a fifth of a span. While
    they are open they have a type that Logfire's own processor passes over. Comes before the exporters.
    """

    def __init__(self, tracer: trace.Tracer) -> None:
        self._tracer = tracer
        self._untold: dict[int, tuple[float, Span]] = {}
        self._is_over = threading.Event()
        threading.Thread(target=self._watch, name="telemetry-open-spans", daemon=True).start()

    @override
    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Keep the span in mind."""
        if (span.attributes or {}).get(_TYPE, _FINISHED) == _FINISHED:
            span.set_attribute(_TYPE, _OPEN)
            self._untold[span.get_span_context().span_id] = (monotonic_s(), span)

    @override
    def on_end(self, span: ReadableSpan) -> None:
        """Forget the span, and give it the type back that it had."""
        self._untold.pop(span.context.span_id, None)
        if (span.attributes or {}).get(_TYPE) == _OPEN:
            span._attributes = {**(span.attributes or {}), _TYPE: _FINISHED}  # noqa: SLF001 - a finished span has no setters

    def tell(self) -> None:
        """Send a pending span for each span that has been open for long, once."""
        latest_s = monotonic_s() - TOLD_AFTER_S
        for span_id, (began_s, span) in list(self._untold.items()):
            if began_s > latest_s:
                continue
            self._untold.pop(span_id, None)
            if span.is_recording():
                self._tell_of(span)

    def _tell_of(self, span: Span) -> None:
        """As Logfire's own processor does it: a span below the open one, with its attributes and no length."""
        parent = trace.NonRecordingSpan(span.get_span_context())
        real_parent = trace.format_span_id(span.parent.span_id if span.parent else 0)
        pending = self._tracer.start_span(
            span.name,
            trace.set_span_in_context(parent),
            span.kind,
            attributes={**(span.attributes or {}), _PARENT: real_parent},
            start_time=span.start_time,
        )
        pending.set_attribute(_TYPE, _PENDING)
        pending.end(span.start_time)

    def _watch(self) -> None:
        while not self._is_over.wait(LOOK_EVERY_S):
            self.tell()

    @override
    def shutdown(self) -> None:
        """Look no more."""
        self._is_over.set()
