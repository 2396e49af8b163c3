"""Log lines say whose they are, in JSON or text, and hold no secrets."""

import asyncio
import io
import json
import logging
import re
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider

from config.logfire import LogfireSettings, LogFormat
from services.core import logs

KEY = "psk_0123456789ab_" + "A" * 43


@pytest.fixture
def provider() -> Iterator[TracerProvider]:
    """Makes real spans that go nowhere."""
    provider = TracerProvider(shutdown_on_exit=False)
    yield provider
    provider.shutdown()


def _record(message: str, *args: object, **extra: object) -> logging.LogRecord:
    record = logging.LogRecord("services.x", logging.INFO, __file__, 1, message, args, None)
    record.__dict__.update(extra)
    return record


def _parse(record: logging.LogRecord) -> dict[str, Any]:
    line = logs.JsonLines().format(record)
    assert "\n" not in line
    return dict(json.loads(line))


def test_a_json_line_has_time_level_logger_and_message() -> None:
    """The four fields that every log store wants come first, the time with its zone."""
    record = _record("took %d ms", 7)
    record.created = 1_794_000_000.25

    assert _parse(record) == {
        "time": "2026-11-06T21:20:00.250+00:00",
        "level": "INFO",
        "logger": "services.x",
        "message": "took 7 ms",
    }


def test_a_json_line_carries_what_is_bound() -> None:
    """Inside bound() lines name request and run; afterwards they no longer do."""
    with logs.bound(request_id="r1"), logs.bound(run_id=7):
        inside = _parse(_record("x"))
    after = _parse(_record("x"))

    assert (inside["request_id"], inside["run_id"]) == ("r1", "7")
    assert {"request_id", "run_id"}.isdisjoint(after)


def test_a_json_line_carries_the_trace(provider: TracerProvider) -> None:
    """A line inside a span leads to its trace."""
    with provider.get_tracer("test").start_as_current_span("work") as span:
        inside = _parse(_record("x"))

    context = span.get_span_context()
    assert inside["trace_id"] == f"{context.trace_id:032x}"
    assert inside["span_id"] == f"{context.span_id:016x}"


def test_a_json_line_keeps_extras_but_not_those_of_libraries() -> None:
    """Our own extras are fields; uvicorn's coloured copy and Celery's task arguments are left out."""
    line = _parse(_record("x", attempt=2, color_message="\x1b[1mx", data={"kwargs": "{...}"}))

    assert line["attempt"] == 2
    assert {"color_message", "data"}.isdisjoint(line)


def test_a_json_line_has_no_colours() -> None:
    """Escape sequences of libraries that think of terminals are removed."""
    assert _parse(_record("\x1b[32mINFO\x1b[0m started"))["message"] == "INFO started"


@pytest.mark.parametrize("formatter", [logs.JsonLines(), logs.TextLines()])
def test_lines_hold_no_secrets(formatter: logging.Formatter) -> None:
    """A key in a message, an extra, the context or a traceback is removed."""
    try:
        raise ValueError(f"no entry with {KEY}")
    except ValueError:
        record = _record("sent %s", KEY, header=f"Bearer {KEY}")
        record.exc_info = sys.exc_info()
        with logs.bound(request_id=KEY):
            line = formatter.format(record)

    assert "ValueError" in line
    assert "A" * 43 not in line


def test_a_text_line_is_short_and_says_whose_it_is() -> None:
    """A person sees time, level, logger, message and context."""
    with logs.bound(run_id="r1"):
        line = logs.TextLines().format(_record("hello"))

    assert line.endswith(" INFO    services.x: hello  [run_id=r1]")


@pytest.mark.parametrize(
    ("path", "status", "is_kept"),
    [
        ("/livez", 200, False),
        ("/readyz?verbose=1", 200, False),
        ("/metrics", 200, False),
        ("/readyz", 503, True),
        ("/v1/runs", 202, True),
        ("/livezz", 404, True),
    ],
)
def test_only_good_probes_are_quiet(path: str, status: int, *, is_kept: bool) -> None:
    """The access log is silent about health checks until they fail."""
    record = _record('%s - "%s %s HTTP/%s" %d', "127.0.0.1:1", "GET", path, "1.1", status)

    assert is_kept == logs.QuietProbes().filter(record)


def test_lines_are_json_where_nobody_watches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Auto means text on a terminal and JSON elsewhere; the other two mean what they say."""
    for is_terminal in (True, False):
        monkeypatch.setattr(sys.stderr, "isatty", lambda answer=is_terminal: answer)
        assert is_terminal is not logs.is_json(LogfireSettings(log_format=LogFormat.AUTO))
        assert logs.is_json(LogfireSettings(log_format=LogFormat.JSON))
        assert not logs.is_json(LogfireSettings(log_format=LogFormat.TEXT))


def test_debug_shows_what_is_otherwise_left_out() -> None:
    """One line per hint is noise, except to those who debug hints."""
    usual = logs.logging_config(LogfireSettings(log_level="INFO"))["loggers"]
    debugging = logs.logging_config(LogfireSettings(log_level="DEBUG"))["loggers"]

    assert usual["celery.app.trace"]["level"] == "WARNING"
    assert debugging["celery.app.trace"]["level"] == "DEBUG"


class Writes(io.StringIO):
    """Notes each write."""

    def __init__(self) -> None:
        super().__init__()
        self.all: list[str] = []

    def write(self, text: str) -> int:
        """Note it."""
        self.all.append(text)
        return len(text)


def _handler() -> tuple[logs.StderrLines, list[str]]:
    """A handler, and what it writes, write by write."""
    handler, writes = logs.StderrLines(), Writes()
    handler.setStream(writes)
    return handler, writes.all


def _line(message: str, level: int = logging.INFO) -> logging.LogRecord:
    return logging.LogRecord("services.x", level, __file__, 1, message, (), None)


async def test_lines_of_one_turn_of_the_loop_are_one_write() -> None:
    """Under load a write takes as long as a line; none waits longer than the turn."""
    handler, written = _handler()
    for name in ("a", "b"):
        handler.handle(_line(name))
    assert written == []
    await asyncio.sleep(0)
    handler.handle(_line("c"))
    await asyncio.sleep(0)

    assert written == ["a\nb\n", "c\n"]


async def test_what_is_worse_is_written_at_once_and_in_order() -> None:
    """It may be the last that the process says."""
    handler, written = _handler()
    handler.handle(_line("a"))
    handler.handle(_line("b", logging.WARNING))

    assert written == ["a\nb\n"]


def test_without_a_loop_each_line_is_written_at_once() -> None:
    """In a thread, and before and after a loop; what a loop left behind is written at the end."""
    handler, written = _handler()
    handler.handle(_line("a"))

    async def tell_and_end() -> None:
        handler.handle(_line("b"))
        asyncio.get_running_loop().stop()

    loop = asyncio.new_event_loop()
    telling = loop.create_task(tell_and_end())
    loop.run_forever()
    assert telling.done()
    handler.handle(_line("c"))
    handler.close()
    loop.close()

    assert "".join(written) == "a\nb\nc\n"


def test_a_plain_line_is_written_as_any_other() -> None:
    """The quick way makes the same line as the library."""
    record = _record("took %d ms", 7, status=202, data="no", _own="no")
    slow = _record("took %d ms", 7, status=202, data="no", _own="no")
    slow.created, slow.stack_info = record.created, "stack"

    expected = _parse(slow)
    assert expected.pop("stack_info") == "stack"
    assert list(expected.items()) == list(_parse(record).items())


@pytest.mark.parametrize("others", [[], [logging.NullHandler()]])
def test_a_line_without_a_record_is_the_same_line(
    others: list[logging.Handler], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever else listens gets a record; secrets are taken out either way."""
    stderr = logs.StderrLines()
    stderr.setFormatter(logs.JsonLines())
    stderr.setStream(io.StringIO())
    monkeypatch.setattr(logging.root, "handlers", [stderr, *others])
    logger = logging.getLogger("services.told")
    logger.setLevel(logging.INFO)
    facts = {"route": "/v1/runs", "status": 202, "ms": 1.5, "note": KEY}

    with logs.bound(request_id="r1", trace_id="a" * 32, span_id="b" * 16):
        logs.info(logger, "took 5 ms", facts)
        logger.info("took 5 ms", extra=facts)
    stderr.flush()

    ours, usual = stderr.stream.getvalue().splitlines()
    time = re.compile(r'"time":"[^"]{29}"')
    assert time.sub("", ours) == time.sub("", usual) != usual
    assert KEY not in ours


def test_a_line_that_nobody_wants_is_not_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """The level is the logger's."""
    stderr = logs.StderrLines()
    stderr.setFormatter(logs.JsonLines())
    stderr.setStream(io.StringIO())
    monkeypatch.setattr(logging.root, "handlers", [stderr])
    logger = logging.getLogger("services.untold")
    logger.setLevel(logging.WARNING)

    logs.info(logger, "x", {})

    assert not stderr.stream.getvalue()
