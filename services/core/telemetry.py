"""Traces and logs: set up once per process, harmless without a token. INTERFACE (to be implemented)."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from config.logfire import LogfireSettings


def initialize(settings: LogfireSettings | None = None, *, service_name: str) -> None:
    """Set up traces and logs; a second call changes nothing."""
    raise NotImplementedError


def is_initialized() -> bool:
    """Whether initialize() has run in this process."""
    raise NotImplementedError


def flush(timeout_ms: int = 3000) -> None:
    """Send what is buffered; before a process ends."""
    raise NotImplementedError


def current_traceparent() -> str | None:
    """The W3C traceparent of the current span."""
    raise NotImplementedError


@contextmanager
def span(name: str, *, traceparent: str | None = None, **attributes: Any) -> Iterator[None]:
    """A span, below the current one or below a remote traceparent."""
    raise NotImplementedError
    yield
