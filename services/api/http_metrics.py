"""How HTTP is doing, in counts and seconds per route; summed over gunicorn's processes.

With several processes behind one port a scrape meets any of them. gunicorn.conf.py therefore names a folder
(PROMETHEUS_MULTIPROC_DIR) in which each process keeps its figures, and a scrape reads all of them.
"""

from collections.abc import Iterable
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.metrics_core import Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

BUCKETS_S: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class HttpMetrics(Collector):
    """Requests by route, method and status, and how long they took."""

    def __init__(self, *, multiprocess_dir: str | None) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "penstock_http_requests",
            "Requests that were answered.",
            ["method", "route", "status"],
            registry=self._registry,
        )
        self._seconds = Histogram(
            "penstock_http_request_duration_seconds",
            "Seconds from the first byte of a request to the last one of its answer; an event stream lasts as its run.",
            ["method", "route"],
            buckets=BUCKETS_S,
            registry=self._registry,
        )
        self._of_kind: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}
        self._source: Collector | CollectorRegistry = self._registry
        if multiprocess_dir:
            self._source = MultiProcessCollector(None, path=multiprocess_dir)  # type: ignore[no-untyped-call]  # library

    def measure(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count one request."""
        one = (method, route, status)
        if one not in self._of_kind:  # looking them up takes longer than counting
            self._of_kind[one] = (
                self._requests.labels(method, route, str(status)),
                self._seconds.labels(method, route),
            )
        requests, durations = self._of_kind[one]
        requests.inc()
        durations.observe(seconds)

    def collect(self) -> Iterable[Metric]:
        """The figures of all processes."""
        return self._source.collect()
