"""Log lines: JSON in containers, text on a terminal; who they belong to, and no secrets."""

import asyncio
import logging
import logging.config
import re
import sys
from contextlib import nullcontext
from contextvars import ContextVar, Token
from datetime import UTC, datetime
from typing import Any, ClassVar, Final, TextIO

from opentelemetry import trace
from pydantic_core import to_json
from pythonjsonlogger.core import RESERVED_ATTRS
from pythonjsonlogger.json import JsonEncoder, JsonFormatter

from config.logfire import LogfireSettings, LogFormat
from services.core.clock import utc_now
from services.core.scrubbing import scrub

_ANSI: Final = re.compile(r"\x1b\[[0-9;]*m")
_BOUND: ContextVar[dict[str, str] | None] = ContextVar("log_context", default=None)
# uvicorn repeats the message with colours; Celery attaches task arguments, which may be anything.
_UNWANTED_EXTRAS: Final = ("color_message", "data", "taskName")


class bound:  # noqa: N801 - used like a function
    """Put values such as request_id or run_id into every log line written inside.

    A class, and not a generator: each step of each run goes through here.
    """

    __slots__ = ("_bound", "_token")

    def __init__(self, **values: object) -> None:
        # Merged here and not on entry, so that a run that waits has one dict for this and not two.
        named = {name: str(value) for name, value in values.items()}
        self._bound = {**bound_values(), **named} if named else None
        self._token: Token[dict[str, str] | None] | None = None

    def __enter__(self) -> None:
        if self._bound is not None:
            self._token = _BOUND.set(self._bound)

    def __exit__(self, *error: object) -> None:
        if self._token is not None:
            _BOUND.reset(self._token)


def bound_values() -> dict[str, str]:
    """What log lines written now say about whom they belong to."""
    return _BOUND.get() or {}


def log_context() -> dict[str, str]:
    """The bound values and, inside a span, its trace and span ids."""
    bound = bound_values()
    if "trace_id" in bound:
        return bound
    span = trace.get_current_span().get_span_context()
    if not span.is_valid:
        return bound
    ids = {
        "trace_id": f"{span.trace_id:032x}",
        "span_id": f"{span.span_id:016x}",
    }
    return {**bound, **ids}


class JsonLines(JsonFormatter):
    """One JSON object a line: time, level, logger, message, then context and extras."""

    def __init__(self) -> None:
        super().__init__([], reserved_attrs=[*RESERVED_ATTRS, *_UNWANTED_EXTRAS])
        # json.dumps would make one for each line. As compact as what format_info writes.
        self._encoder = JsonEncoder(separators=(",", ":"))

    def jsonify_log_record(self, log_data: dict[str, Any]) -> str:
        """The line."""
        return self._encoder.encode(log_data)

    def add_fields(
        self,
        log_data: dict[str, Any],
        record: logging.LogRecord,
        message_dict: dict[str, Any],
    ) -> None:
        """Put our fields first; the parent adds extras and a traceback."""
        self._begin(log_data, record)
        super().add_fields(log_data, record, message_dict)

    def _begin(self, log_data: dict[str, Any], record: logging.LogRecord) -> None:
        log_data["time"] = _time_of(record).isoformat(timespec="milliseconds")
        log_data["level"] = record.levelname
        log_data["logger"] = record.name
        message = record.message
        log_data["message"] = _ANSI.sub("", message) if "\x1b" in message else message
        log_data.update(log_context())

    def format(self, record: logging.LogRecord) -> str:
        """The line, without secrets wherever in it they were."""
        if record.exc_info or record.exc_text or record.stack_info or isinstance(record.msg, dict):
            return scrub(super().format(record))
        # The same, where there is nothing but a message and extras.
        record.message = record.getMessage()
        line: dict[str, Any] = {}
        self._begin(line, record)
        facts = vars(record).items()
        line |= {k: v for k, v in facts if k not in self._skip_fields and k[0] != "_"}
        return scrub(self.jsonify_log_record(line))

    def format_info(self, logger: str, message: str, facts: dict[str, Any]) -> str:
        """The line of a record at INFO with extras, without the record."""
        line = {
            "time": utc_now().isoformat(timespec="milliseconds"),
            "level": "INFO",
            "logger": logger,
            "message": message,
            **log_context(),
            **facts,
        }
        return scrub(to_json(line).decode())


class TextLines(logging.Formatter):
    """Lines for people: time, level, logger, message, context."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(name)s: %(message)s", datefmt="%H:%M:%S")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        """The first line, followed by whom it belongs to."""
        context = " ".join(f"{name}={value}" for name, value in bound_values().items())
        line = super().formatMessage(record)
        return f"{line}  [{context}]" if context else line

    def format(self, record: logging.LogRecord) -> str:
        """The line and its traceback, without secrets."""
        return scrub(super().format(record))


class StderrLines(logging.StreamHandler[TextIO]):
    """Writes lines to stderr: those of one turn of an event loop together, since each write takes as long as a line.

    What is worse than INFO is written at once, with all that is waiting.
    """

    def __init__(self) -> None:
        super().__init__(sys.stderr)
        self._lines: list[str] = []
        self._written_by: asyncio.AbstractEventLoop | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Take a record's line."""
        try:
            self.take(self.format(record), may_wait=record.levelno <= logging.INFO)
        except RecursionError:
            raise
        except Exception:  # noqa: BLE001 - a line that fails must not fail what it tells of
            self.handleError(record)

    def take(self, line: str, *, may_wait: bool = True) -> None:
        """Take a line, and write it now or at the end of this turn of the loop."""
        with self.lock or nullcontext():
            self._lines.append(line + self.terminator)
            loop = _running_loop() if may_wait else None
            if loop is None:
                self.flush()
            elif self._written_by is not loop:
                self._written_by = loop
                loop.call_soon(self.flush)

    def flush(self) -> None:
        """Write what is waiting."""
        with self.lock or nullcontext():
            lines, self._lines, self._written_by = self._lines, [], None
            if lines:
                self.stream.write("".join(lines))
            super().flush()


def info(logger: logging.Logger, message: str, facts: dict[str, Any]) -> None:
    """As `logger.info(message, extra=facts)`, in a third of the time where lines are JSON: for each request, say."""
    if not logger.isEnabledFor(logging.INFO):
        return
    match logging.root.handlers:
        case [StderrLines(formatter=JsonLines() as lines) as stderr]:
            stderr.take(lines.format_info(logger.name, message, facts))
        case _:
            logger.info(message, extra=facts)


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


class QuietProbes(logging.Filter):
    """Drops access-log lines of health checks and metrics that went well: several a minute, all the same."""

    PATHS: ClassVar = frozenset({"/livez", "/readyz", "/metrics", "/healthcheck"})

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether to keep the line; uvicorn's arguments are (client, method, path, version, status)."""
        match record.args:
            case (_, _, str(path), _, int(status)):
                return not (path.partition("?")[0] in self.PATHS and status < 400)  # noqa: PLR2004 - HTTP errors start there
            case _:
                return True


def _time_of(record: logging.LogRecord) -> datetime:
    return datetime.fromtimestamp(record.created, UTC)


def is_json(settings: LogfireSettings) -> bool:
    """Whether log lines are JSON: if asked for, or when nobody watches a terminal."""
    if settings.log_format is LogFormat.AUTO:
        return not sys.stderr.isatty()
    return settings.log_format is LogFormat.JSON


def logging_config(settings: LogfireSettings) -> dict[str, Any]:
    """A configuration for logging.config.dictConfig, and for gunicorn's logconfig_dict."""
    level = settings.log_level.upper()
    chatty = level if level == "DEBUG" else "WARNING"
    ours: dict[str, Any] = {"handlers": ["stderr"], "propagate": False, "level": level}
    formatter = JsonLines if is_json(settings) else TextLines
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"line": {"()": formatter}},
        "filters": {"quiet_probes": {"()": QuietProbes}},
        "handlers": {"stderr": {"()": StderrLines, "formatter": "line"}},
        "root": {"handlers": ["stderr"], "level": level},
        "loggers": {
            # gunicorn and uvicorn set propagate to False and pass on their handlers, so they need their own.
            "gunicorn.error": ours,
            "gunicorn.access": ours,
            "uvicorn": ours,
            "uvicorn.error": ours,
            "uvicorn.access": {**ours, "filters": ["quiet_probes"]},
            # One line per hint says nothing about runs; failures come at ERROR.
            "celery.worker.strategy": {"level": chatty},
            "celery.app.trace": {"level": chatty},
            # A sweep every few seconds; that beat lives is for its health check to say.
            "celery.beat": {"level": chatty},
            "tornado.access": {"level": chatty},
            "httpx": {"level": chatty},
            "httpx2": {"level": chatty},
            # telemetry.py says once what these say for every batch.
            "opentelemetry.exporter.otlp": {"level": "CRITICAL"},
        },
    }


def configure(settings: LogfireSettings) -> None:
    """Send every logger of this process, and Python's warnings, through one handler to stderr."""
    # No line has these, and each record would look them up (Logging HOWTO, "Optimization").
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging.config.dictConfig(logging_config(settings))
    logging.captureWarnings(capture=True)
