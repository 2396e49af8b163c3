"""How HTTP is doing, in counts and seconds per route; summed over gunicorn's processes.

With several processes behind one port a scrape meets any of them. gunicorn.conf.py therefore names a folder
(PROMETHEUS_MULTIPROC_DIR) in which each process keeps its figures, and a scrape reads all of them.
"""

import asyncio
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Final

import prometheus_client
from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.metrics_core import Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

TELL_AFTER_S: Final = 0.2
"""Seconds after which figures are written down where a scrape that meets another process finds them."""
BUCKETS_S: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class HttpMetrics(Collector):
    """Requests by route, method and status, and how long they took."""

    def __init__(self, *, multiprocess_dir: str | None) -> None:
        self._registry = CollectorRegistry()
        self._requests = prometheus_client.Counter(
            "penstock_http_requests",
            "Requests that were answered.",
            ["method", "route", "status"],
            registry=self._registry,
        )
        self._seconds = _Durations(
            "penstock_http_request_duration_seconds",
            "Seconds from the first byte of a request to the last one of its answer; an event stream lasts as its run.",
            ["method", "route"],
            buckets=BUCKETS_S,
            registry=self._registry,
        )
        self._untold: defaultdict[tuple[str, str, int], list[float]] = defaultdict(list)
        """Seconds of requests since the last look, by method, route and status."""
        self._is_telling = False
        self._source: Collector | CollectorRegistry = self._registry
        if multiprocess_dir:
            self._source = MultiProcessCollector(None, path=multiprocess_dir)  # type: ignore[no-untyped-call]  # library

    def measure(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count one request, by and by: under load its figures take less time together with those of others."""
        self._untold[method, route, status].append(seconds)
        if not self._is_telling:
            self._is_telling = True
            asyncio.get_running_loop().call_later(TELL_AFTER_S, self._tell)

    def collect(self) -> Iterable[Metric]:
        """The figures of all processes; those of others are a moment old."""
        self._tell()
        return self._source.collect()

    def _tell(self) -> None:
        untold, self._untold, self._is_telling = self._untold, defaultdict(list), False
        for (method, route, status), seconds in untold.items():
            self._requests.labels(method, route, str(status)).inc(len(seconds))
            self._seconds.labels(method, route).observe_all(seconds)


class _Durations(Histogram):
    """A histogram that takes many values at once."""

    def observe_all(self, values: Sequence[float]) -> None:
        """As `observe` of each, but each bucket is written once: with several processes that is a write to a file."""
        self._sum.inc(sum(values))
        numbers = Counter(bisect_left(self._upper_bounds, value) for value in values)
        for number, times in numbers.items():
            self._buckets[number].inc(times)
