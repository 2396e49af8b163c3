"""Sends hints, best effort: a lost hint costs time, never work. INTERFACE (to be implemented)."""

from uuid import UUID

from celery import Celery


class HintPublisher:
    """Publishes hints from one background thread, so that no caller ever waits for Redis."""

    def __init__(self, app: Celery) -> None:
        self._app = app

    def start(self) -> None:
        """Start the thread."""
        raise NotImplementedError

    def hint(self, run_id: UUID, *, is_isolated: bool = False) -> None:
        """Queue a hint and return at once; carries the caller's trace context. Drops when too many wait."""
        raise NotImplementedError

    def close(self, timeout_s: float = 2.0) -> None:
        """Send what waits, within the timeout."""
        raise NotImplementedError
