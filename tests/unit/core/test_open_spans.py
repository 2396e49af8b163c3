"""Logfire is told of spans that last, while they last, and of no others before they end."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import logfire
import pytest
from logfire.testing import TestExporter
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor

from services.core import open_spans
from services.core.open_spans import TOLD_AFTER_S, OpenSpans, is_pending
from services.core.span_export import SecretScrubber

KEY = "sk-ant-api03-abcdef"


class LateTracer(trace.NoOpTracer):
    """Logfire's tracer, which needs processors that need a tracer."""

    provider: trace.TracerProvider

    def start_span(self, *args: Any, **kwargs: Any) -> trace.Span:
        """A span of Logfire's."""
        return self.provider.get_tracer("test").start_span(*args, **kwargs)


@dataclass
class Telling:
    """Logfire's pipeline with our processors, what it would send, and a clock that stands."""

    exporter: TestExporter
    tracer: LateTracer
    open: OpenSpans
    now_s: float = 100.0

    @property
    def sent(self) -> Sequence[ReadableSpan]:
        """Pending and finished spans."""
        return self.exporter.exported_spans

    def tell(self, *, after_s: float = 0.0) -> None:
        """Look at the open spans."""
        self.now_s += after_s
        self.open.tell()


@pytest.fixture
def telling(monkeypatch: pytest.MonkeyPatch) -> Iterator[Telling]:
    """Sends pending spans as Logfire's own exporter does."""
    exporter, tracer = TestExporter(), LateTracer()
    telling = Telling(exporter, tracer, OpenSpans(tracer))
    monkeypatch.setattr(open_spans, "monotonic_s", lambda: telling.now_s)
    local = logfire.configure(
        local=True,
        send_to_logfire=False,
        console=False,
        metrics=False,
        scrubbing=False,
        additional_span_processors=[SecretScrubber(), telling.open, SimpleSpanProcessor(exporter)],
    )
    tracer.provider = local.config.get_tracer_provider()
    yield telling
    local.shutdown()


def test_a_short_span_is_sent_once(telling: Telling) -> None:
    """When it has ended, as if nothing had been done about it."""
    with telling.tracer.start_as_current_span("short"):
        telling.tell(after_s=TOLD_AFTER_S / 2)
    telling.tell(after_s=TOLD_AFTER_S)

    (short,) = telling.sent
    assert short.attributes == {"logfire.span_type": "span", "logfire.msg": "short"}


def test_a_span_that_lasts_is_told_of_once(telling: Telling) -> None:
    """As Logfire would itself: below the open span, with its parent's id, and what is known of it by then."""
    outer = telling.tracer.start_span("outer")
    inner = telling.tracer.start_span("inner", trace.set_span_in_context(outer))
    inner.set_attribute("late", 1)
    telling.tell(after_s=TOLD_AFTER_S)
    telling.tell(after_s=TOLD_AFTER_S)
    inner.end()
    outer.end()

    first, second, inner_sent, outer_sent = telling.sent
    assert [is_pending(span) for span in telling.sent] == [True, True, False, False]
    assert first.parent == outer_sent.context
    assert second.parent == inner_sent.context
    assert second.start_time == second.end_time == inner_sent.start_time
    assert second.attributes == {
        "logfire.span_type": "pending_span",
        "logfire.msg": "inner",
        "logfire.pending_parent_id": f"{outer.get_span_context().span_id:016x}",
        "late": 1,
    }
    assert first.attributes is not None
    assert first.attributes["logfire.pending_parent_id"] == "0" * 16


def test_an_open_span_holds_no_secrets_either(telling: Telling) -> None:
    """Logfire shows spans before they end; what it is told by then is clean."""
    telling.tracer.start_span(f"call {KEY}", attributes={"url": f"http://x?k={KEY}", "password": 1})
    telling.tell(after_s=TOLD_AFTER_S)

    (pending,) = telling.sent
    assert KEY not in pending.to_json()
    assert pending.attributes is not None
    assert pending.attributes["url"] == "http://x?k=[redacted]"
    assert pending.attributes["password"] == "[redacted]"
