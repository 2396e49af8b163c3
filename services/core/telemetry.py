"""Traces and logs: set up once per process, harmless without a token.

Nothing leaves the machine unless LOGFIRE_TOKEN (Logfire) or OTEL_EXPORTER_OTLP_ENDPOINT (any OTLP backend) is set.
Spans carry names, ids, sizes and times; prompts and answers only with LOGFIRE_CAPTURE_CONTENT, see record_content().
"""

import functools
import os
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from contextvars import Token
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final

import logfire
from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.sdk.trace import SpanProcessor
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased, Sampler
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from config.environment import EnvironmentSettings
from config.loading import load
from config.logfire import LogfireSettings
from config.sources import environment_variables
from services import __version__
from services.core import logs
from services.core.open_spans import OpenSpans
from services.core.span_export import HeadSampler, SecretScrubber, create_otlp_processor

_TRACER: Final = trace.get_tracer("penstock")
_PROPAGATOR: Final = TraceContextTextMapPropagator()
_TRACE_BYTES: Final = 16
_SPAN_BYTES: Final = 8
_LOGGED_ATTRIBUTES: Final = ("request_id", "run_id", "step")
_QUIET_PATHS: Final = logs.QuietProbes.PATHS


@dataclass(frozen=True)
class _Setup:
    """What this process was set up with; a forked child finds its parent's here, with another pid."""

    settings: LogfireSettings
    service_name: str
    pid: int

    @functools.cached_property
    def is_exporting(self) -> bool:
        """Whether anybody gets the spans."""
        return bool(self.settings.token or self.settings.otlp_endpoint)


_setup: _Setup | None = None


def initialize(settings: LogfireSettings | None = None, *, service_name: str) -> None:
    """Set up traces and logs; a second call in the same process changes nothing.

    Args:
        settings: Where telemetry goes; loaded from the environment if not given.
        service_name: The container's name: api, worker, beat, ...
    """
    global _setup  # noqa: PLW0603 - telemetry is one per process, like logging itself
    if is_initialized():
        return
    settings = settings or load(LogfireSettings)
    logs.configure(settings)
    _configure_traces(settings, service_name=service_name)
    _setup = _Setup(settings=settings, service_name=service_name, pid=os.getpid())


def is_initialized() -> bool:
    """Whether initialize() has run in this process; a fork is another process."""
    return _setup is not None and _setup.pid == os.getpid()


def _configure_traces(settings: LogfireSettings, *, service_name: str) -> None:
    token = settings.token.get_secret_value() if settings.token else None
    processors: list[SpanProcessor] = [SecretScrubber()]
    if token:
        processors.append(OpenSpans(_TRACER))
    if settings.otlp_endpoint:
        processors.append(create_otlp_processor())
    # Logfire would add exporters of its own for OTEL_EXPORTER_OTLP_ENDPOINT; with a dead endpoint each batch of
    # those waits for 10 s, also while a process ends. Ours gives up sooner, see span_export.py.
    with environment_variables(OTEL_TRACES_EXPORTER="none", OTEL_LOGS_EXPORTER="none"):
        logfire.configure(
            # A credentials file in the working folder does not count as a token.
            send_to_logfire="if-token-present" if token else False,
            token=token,
            service_name=service_name,
            service_version=__version__,
            environment=settings.environment or EnvironmentSettings().env,
            console=False,
            metrics=False,
            inspect_arguments=False,
            add_baggage_to_attributes=False,
            distributed_tracing=True,
            scrubbing=False,
            sampling=logfire.SamplingOptions(head=_create_sampler(settings)),
            additional_span_processors=processors,
            advanced=logfire.AdvancedOptions(emit_configuration_span=False),
        )


def _create_sampler(settings: LogfireSettings) -> Sampler:
    """Who decides which traces are recorded; where none leaves the process, spans are ids for log lines and runs."""
    if settings.token or settings.otlp_endpoint:
        return ParentBased(HeadSampler(settings.trace_sample_rate))
    return ALWAYS_OFF


def is_recording() -> bool:
    """Whether spans are made: not if this process was set up, and nobody would get them."""
    return _setup is None or _setup.is_exporting


def instrument_fastapi(app: Any) -> None:
    """Give each request one span, if they are made: method, route and status, no bodies, headers or validation errors.

    FastAPI makes spans of its own from 0.165 on; logfire.instrument_fastapi would be a second source, and records
    arguments. Before the app serves its first request.
    """
    app._telemetry.update(  # noqa: SLF001 - public only as an argument of FastAPI(); a test holds it
        auto_configure=False,
        exclude=lambda scope: scope.get("path") in _QUIET_PATHS,
        logs=False,
        metrics=False,
        operation_spans=False,
        tracing=is_recording(),
    )


def instrument_celery() -> None:
    """Carry the trace through task messages; in the processes that send tasks and in workers.

    Also takes logging out of Celery's hands, sets prefork children up again after the fork (threads and
    connections do not survive it) and sends their last spans when they are replaced.
    """
    from celery import signals  # noqa: PLC0415 - heavy, and only Celery's processes need it

    logfire.instrument_celery()
    signals.setup_logging.connect(_leave_logging, weak=False)
    signals.worker_process_init.connect(_initialize_child, weak=False)
    signals.worker_process_shutdown.connect(_shutdown_child, weak=False)


def _leave_logging(**_: object) -> None:
    """A receiver is enough for Celery to leave logging as initialize() set it up."""


def _initialize_child(**_: object) -> None:
    if _setup is not None:
        initialize(_setup.settings, service_name=_setup.service_name)


def _shutdown_child(**_: object) -> None:
    shutdown()


def flush(timeout_ms: int = 3000) -> None:
    """Send what is buffered, for as long as the timeout allows."""
    _within(timeout_ms, lambda: logfire.force_flush(timeout_ms))


def shutdown(timeout_ms: int = 3000) -> None:
    """Send what is buffered and stop, for as long as the timeout allows; before a process ends."""
    _within(timeout_ms, lambda: logfire.shutdown(timeout_ms))


def _within(timeout_ms: int, action: Callable[[], object]) -> None:
    """Wait for an action, but no longer: OpenTelemetry's own timeouts are not kept (issues 4555, 4568)."""
    thread = threading.Thread(target=action, name="telemetry-flush", daemon=True)
    thread.start()
    thread.join(timeout_ms / 1000)


def current_traceparent() -> str | None:
    """The W3C traceparent of the current span or unrecorded request, or None outside of both."""
    bound = logs.bound_values()
    if "trace_id" in bound:  # there is no span then
        return f"00-{bound['trace_id']}-{bound['span_id']}-00"
    ids = trace.get_current_span().get_span_context()
    if not ids.is_valid:
        return None
    return f"00-{ids.trace_id:032x}-{ids.span_id:016x}-{ids.trace_flags:02x}"


def span(
    name: str, *, traceparent: str | None = None, **attributes: Any
) -> AbstractContextManager[trace.Span]:
    """A span, below the current one or below a remote traceparent.

    Args:
        name: A name of few kinds, such as the step's; what varies belongs into attributes.
        traceparent: The W3C trace context of the parent, if it is in another process.
        attributes: request_id, run_id and step also go into each log line written inside.
    """
    parent = _PROPAGATOR.extract({"traceparent": traceparent}) if traceparent else None
    named = {key: value for key, value in attributes.items() if value is not None}
    logged: dict[str, Any] = {key: named[key] for key in _LOGGED_ATTRIBUTES if key in named}
    if not is_recording():
        return _Unrecorded(parent, logged)
    start = functools.partial(_TRACER.start_span, name, parent, attributes=_to_attributes(named))
    return _Recorded(start, logged)


class _Recorded(AbstractContextManager[trace.Span]):
    """A span that is current within the block, as trace.use_span has it; a class, as each step goes through here."""

    __slots__ = ("_bound", "_current", "_start", "_token")

    def __init__(self, start: Callable[[], trace.Span], logged: dict[str, Any]) -> None:
        self._start = start
        self._bound = logs.bound(**logged)
        self._current: trace.Span = trace.INVALID_SPAN
        self._token: Token[otel_context.Context] | None = None

    def __enter__(self) -> trace.Span:
        self._bound.__enter__()
        self._current = self._start()
        self._token = otel_context.attach(trace.set_span_in_context(self._current))
        return self._current

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._token is not None:
            otel_context.detach(self._token)
        if isinstance(error, Exception) and self._current.is_recording():
            self._current.record_exception(error)
            description = f"{type(error).__name__}: {error}"
            self._current.set_status(trace.Status(trace.StatusCode.ERROR, description))
        self._current.end()
        self._bound.__exit__(None, None, None)


class _Unrecorded(AbstractContextManager[trace.Span]):
    """Stands for a span that nobody would get: making one costs more than all else of a small step.

    Log lines, and what is called, are in the remote trace all the same.
    """

    __slots__ = ("_bound", "_parent", "_token")

    def __init__(self, parent: otel_context.Context | None, logged: dict[str, Any]) -> None:
        self._parent = parent
        self._bound = logs.bound(**logged)
        self._token: Token[otel_context.Context] | None = None

    def __enter__(self) -> trace.Span:
        self._bound.__enter__()
        if self._parent is not None:
            self._token = otel_context.attach(self._parent)
        return trace.get_current_span()

    def __exit__(self, *error: object) -> None:
        if self._token is not None:
            otel_context.detach(self._token)
        self._bound.__exit__(None, None, None)


def unrecorded_request(traceparent: str | None, **logged: str) -> logs.bound:
    """Ids for what a request causes: a new span's, in the caller's trace or in a new one.

    They are with those of log lines, and no span: to make one, even one that records nothing, takes twice as long.

    Args:
        traceparent: The caller's, as it came.
        logged: Goes into each log line written inside.
    """
    new = os.urandom(_TRACE_BYTES + _SPAN_BYTES).hex()
    trace_id, span_id = new[: 2 * _TRACE_BYTES], new[2 * _TRACE_BYTES :]
    if traceparent:
        caller = trace.get_current_span(_PROPAGATOR.extract({"traceparent": traceparent}))
        known = caller.get_span_context()
        trace_id = f"{known.trace_id:032x}" if known.is_valid else trace_id
    return logs.bound(**logged, trace_id=trace_id, span_id=span_id)


def in_trace(traceparent: str | None) -> AbstractContextManager[object]:
    """Where what is called belongs to a trace; no span of its own.

    Args:
        traceparent: As current_traceparent gave it.
    """
    parent = _PROPAGATOR.extract({"traceparent": traceparent}) if traceparent else None
    return _Unrecorded(parent, {})


def annotate(**attributes: Any) -> None:
    """Add attributes to the current span, if there may be one."""
    if not is_recording():
        return
    current = trace.get_current_span()
    if current.is_recording():
        current.set_attributes(_to_attributes(attributes))


def record_content(**texts: str) -> None:
    """Add prompts or answers to the current span, if LOGFIRE_CAPTURE_CONTENT allows it; else do nothing."""
    if _setup is not None and _setup.settings.capture_content:
        annotate(**texts)


def _to_attributes(values: dict[str, Any]) -> dict[str, str | bool | int | float]:
    """OpenTelemetry takes plain values only; ids, amounts and enums become text."""
    return {
        key: value if type(value) in (str, bool, int, float) else str(value)
        for key, value in values.items()
    }
