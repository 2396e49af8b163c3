"""A reporter that keeps what Flower would be told."""

from typing import Any

from services.core.runs.models import Lease
from services.worker.reporter import RunReport


class QuietReporter:
    """RunReporter without Redis."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []

    def report_start(self, lease: Lease) -> RunReport:
        """Keep that it started."""
        self.put("task-started", lease)
        return RunReport(self, lease)

    def put(self, event: str, _lease: Lease, **fields: Any) -> None:
        """Keep an event."""
        self.events.append((event, fields))

    def names(self) -> list[str]:
        """The events' names."""
        return [name for name, _ in self.events]
