"""Spans nest, cross processes by traceparent, and hold no content unless allowed."""

import contextvars
import os
import threading
import time
from collections.abc import Iterator
from decimal import Decimal
from uuid import UUID

import greenlet
import pytest
from fastapi import FastAPI
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ParentBased
from opentelemetry.trace import TraceFlags

from config.logfire import LogfireSettings
from services.core import logs, telemetry
from services.core.span_export import HeadSampler

REMOTE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
def exporter(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    """Keeps the spans of telemetry.span()."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(telemetry, "_TRACER", provider.get_tracer("test"))
    yield exporter
    provider.shutdown()


def _set_up(monkeypatch: pytest.MonkeyPatch, *, pid: int, **settings: bool) -> None:
    given = LogfireSettings(otlp_endpoint="http://127.0.0.1:9", **settings)  # type: ignore[arg-type]  # booleans only
    setup = telemetry._Setup(given, "test", pid)
    monkeypatch.setattr(telemetry, "_setup", setup)


def test_spans_nest(exporter: InMemorySpanExporter) -> None:
    """A span opened inside another is its child."""
    with telemetry.span("outer"), telemetry.span("inner"):
        pass

    inner, outer = exporter.get_finished_spans()
    assert inner.parent is not None
    assert inner.parent.span_id == outer.context.span_id


def test_a_span_continues_a_remote_trace(exporter: InMemorySpanExporter) -> None:
    """The run span in the worker is a child of the request that posted the run, whatever is current."""
    with telemetry.span("hint"), telemetry.span("run", traceparent=REMOTE):
        below = telemetry.current_traceparent()

    run, _ = exporter.get_finished_spans()
    assert below == f"00-0af7651916cd43dd8448eb211c80319c-{run.context.span_id:016x}-01"
    assert run.parent is not None
    assert f"{run.parent.span_id:016x}" == "b7ad6b7169203331"


def test_there_is_no_traceparent_outside_spans() -> None:
    """A run that was not posted by a traced request starts a trace of its own."""
    assert telemetry.current_traceparent() is None


def test_where_nothing_leaves_spans_are_ids_only() -> None:
    """Without a token and an endpoint nothing is recorded, whatever a client asks for; the trace's id is there."""
    provider = TracerProvider(sampler=telemetry._create_sampler(LogfireSettings()))
    parent = telemetry._PROPAGATOR.extract({"traceparent": REMOTE})

    span = provider.get_tracer("test").start_span("run", context=parent)

    assert not span.is_recording()
    assert f"{span.get_span_context().trace_id:032x}" in REMOTE


def test_a_malformed_traceparent_starts_a_new_trace(exporter: InMemorySpanExporter) -> None:
    """What a client sent as trace context can break nothing."""
    with telemetry.span("run", traceparent="nonsense"):
        pass

    (run,) = exporter.get_finished_spans()
    assert run.parent is None


def test_attributes_become_plain_values(exporter: InMemorySpanExporter) -> None:
    """Ids and amounts are texts, None is left out, numbers and booleans stay."""
    with telemetry.span("x", run_id=UUID(int=7), cost=Decimal("0.10"), n=1, ok=True, none=None):
        telemetry.annotate(late=2.5)

    (span,) = exporter.get_finished_spans()
    assert span.attributes == {
        "run_id": str(UUID(int=7)),
        "cost": "0.10",
        "n": 1,
        "ok": True,
        "late": 2.5,
    }


def test_ids_of_a_span_go_into_its_log_lines(exporter: InMemorySpanExporter) -> None:
    """Log lines inside a run's span name the run and the step without anybody passing them on."""
    with telemetry.span("run", run_id=7), telemetry.span("step", step="research", other=1):
        inside = logs.bound_values()

    assert inside == {"run_id": "7", "step": "research"}
    assert logs.bound_values() == {}


def test_a_failed_span_says_why_and_raises(exporter: InMemorySpanExporter) -> None:
    """The error passes through unchanged."""
    with pytest.raises(ValueError, match="boom"), telemetry.span("x"):
        raise ValueError("boom")

    (span,) = exporter.get_finished_spans()
    assert not span.status.is_ok
    assert span.events[0].name == "exception"


def test_greenlets_that_take_turns_keep_their_own_spans(exporter: InMemorySpanExporter) -> None:
    """Two tasks of the asyncio pool, switched in mid-span, never see each other's span."""
    seen: dict[str, list[str | None]] = {"a": [], "b": []}

    def work(name: str) -> None:
        with telemetry.span(name, run_id=name):
            before = telemetry.current_traceparent()
            greenlet.getcurrent().parent.switch()  # type: ignore[union-attr]  # has a parent
            seen[name] += [before, telemetry.current_traceparent(), logs.bound_values()["run_id"]]

    tasks = [greenlet.greenlet(work) for _ in seen]
    for task, name in zip(tasks, seen, strict=True):
        task.gr_context = contextvars.copy_context()
        task.switch(name)
    for task in tasks:
        task.switch()

    for name, (before, after, run_id) in seen.items():
        assert before == after
        assert run_id == name
    assert telemetry.current_traceparent() is None
    assert {None} == {span.parent for span in exporter.get_finished_spans()}


@pytest.mark.parametrize("is_allowed", [True, False])
def test_content_is_recorded_only_if_allowed(
    *, is_allowed: bool, exporter: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prompts and answers stay out of spans unless LOGFIRE_CAPTURE_CONTENT is on."""
    _set_up(monkeypatch, pid=os.getpid(), capture_content=is_allowed)
    with telemetry.span("claude"):
        telemetry.record_content(prompt="Dear Dr. Marsh")

    (span,) = exporter.get_finished_spans()
    assert is_allowed is ("prompt" in span.attributes)


def test_a_forked_child_is_not_initialized(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads and connections do not survive a fork, so the child must set telemetry up again."""
    _set_up(monkeypatch, pid=os.getpid())
    assert telemetry.is_initialized()
    _set_up(monkeypatch, pid=os.getppid())
    assert not telemetry.is_initialized()


def test_flushing_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A backend that hangs delays the end of a process by the timeout and no more."""
    released = threading.Event()
    monkeypatch.setattr(telemetry.logfire, "force_flush", lambda _: released.wait(10))
    started = time.monotonic()
    telemetry.flush(timeout_ms=100)
    took_s = time.monotonic() - started
    released.set()

    assert 0.1 <= took_s < 2


def test_fastapi_still_takes_its_telemetry_options_where_we_put_them() -> None:
    """The private attribute of FastAPI that instrument_fastapi() sets is the one that FastAPI uses."""
    app = FastAPI()
    telemetry.instrument_fastapi(app)

    options = app._native_telemetry.config
    assert options["operation_spans"] is options["logs"] is options["metrics"] is False
    assert options["exclude"]({"path": "/livez"})
    assert not options["exclude"]({"path": "/v1/runs"})


def test_without_a_backend_no_span_is_made(
    exporter: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody would get it; log lines still say whose they are, and in which trace."""
    setup = telemetry._Setup(LogfireSettings(), "worker", os.getpid())
    monkeypatch.setattr(telemetry, "_setup", setup)

    with telemetry.span("run", traceparent=REMOTE, run_id=7), telemetry.span("step", step="ask"):
        context = logs.log_context()
        telemetry.annotate(ending="Succeeded")
        traceparent = telemetry.current_traceparent()

    assert REMOTE == traceparent
    assert {
        "run_id": "7",
        "step": "ask",
        "trace_id": REMOTE.split("-")[1],
    }.items() <= context.items()
    assert () == exporter.get_finished_spans()
    assert {} == logs.log_context()


def test_a_run_of_a_trace_that_is_not_sampled_is_not_sampled_either(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The POST decides; a worker that would sample everything keeps to it."""
    exporter = InMemorySpanExporter()
    for rate, service in ((0.0, "api"), (1.0, "worker")):
        sampler = ParentBased(HeadSampler(rate))
        provider = TracerProvider(sampler=sampler, shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(exporter))
        monkeypatch.setattr(telemetry, "_TRACER", provider.get_tracer(service))
        if service == "api":
            with telemetry.span("POST /v1/runs"):
                traceparent = telemetry.current_traceparent()
        else:
            with telemetry.span("run", traceparent=traceparent), telemetry.span("step"):
                telemetry.annotate(attempt=1)

    assert traceparent is not None
    assert not int(traceparent[-2:], 16) & TraceFlags.SAMPLED
    assert exporter.get_finished_spans() == ()


def test_a_request_that_nobody_records_has_ids_all_the_same() -> None:
    """Those of the caller's trace, or of a new one; malformed ones are no trace."""
    with telemetry.unrecorded_request(None):
        first = telemetry.current_traceparent()
    assert first is not None
    with telemetry.unrecorded_request(first):
        second = telemetry.current_traceparent()
    with telemetry.unrecorded_request("00-broken"):
        third = telemetry.current_traceparent()

    assert second is not None
    assert third is not None
    traces, spans, flags = zip(
        *(each.split("-")[1:] for each in (first, second, third)), strict=True
    )
    assert traces[0] == traces[1] != traces[2]
    assert len(set(spans)) == 3
    assert set(flags) == {"00"}
    assert telemetry.current_traceparent() is None
