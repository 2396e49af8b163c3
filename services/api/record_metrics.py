"""The record's figures for Prometheus: the same from every process, since they are read, not counted."""

import asyncio
from collections.abc import Iterable
from typing import Final

from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    Metric,
    SummaryMetricFamily,
)
from prometheus_client.registry import Collector

from services.core.clock import monotonic_s
from services.core.errors import StoreUnavailableError
from services.core.runs.models import RunTotals
from services.core.runs.states import RunState
from services.core.runs.store import RunStore

MAX_AGE_S: Final = 1.5
"""Scrapes within this time share one look at the record."""
READ_TIMEOUT_S: Final = 2.0


class RecordTotals:
    """The record's totals, read at most once per MAX_AGE_S."""

    def __init__(self, store: RunStore) -> None:
        self._store = store
        self._lock = asyncio.Lock()
        self._totals: RunTotals | None = None
        self._read_at_s = float("-inf")

    async def get(self) -> RunTotals | None:
        """The totals; None while the record is away."""
        async with self._lock:
            if monotonic_s() - self._read_at_s > MAX_AGE_S:
                self._totals = await self._read()
                self._read_at_s = monotonic_s()
            return self._totals

    async def _read(self) -> RunTotals | None:
        try:
            async with asyncio.timeout(READ_TIMEOUT_S):
                return await self._store.get_totals()
        except (StoreUnavailableError, TimeoutError):
            return None


class RecordMetrics(Collector):
    """One look at the totals, as metrics; while the record is away only `penstock_record_up 0`."""

    def __init__(self, totals: RunTotals | None) -> None:
        self._totals = totals

    def collect(self) -> Iterable[Metric]:
        """The metrics."""
        is_up = self._totals is not None
        yield GaugeMetricFamily("penstock_record_up", "Whether the record answers.", float(is_up))
        if self._totals is not None:
            yield from _queue(self._totals)
            yield from _runs(self._totals)
            yield _step_durations(self._totals)
            yield from _claude(self._totals)


def _queue(totals: RunTotals) -> Iterable[Metric]:
    yield GaugeMetricFamily(
        "penstock_queue_depth",
        "Queued runs, those that wait for a retry included.",
        totals.queue_depth,
    )
    yield GaugeMetricFamily(
        "penstock_oldest_queued_age_seconds",
        "Seconds since the oldest queued run was due; 0 if none is.",
        totals.oldest_queued_age_s or 0,
    )


def _runs(totals: RunTotals) -> Iterable[Metric]:
    runs = GaugeMetricFamily("penstock_runs", "Runs by state.", labels=["state"])
    for state in RunState:
        runs.add_metric([state], totals.runs_by_state.get(state, 0))
    yield runs
    failures = CounterMetricFamily(
        "penstock_run_failures", "Failed runs by reason.", labels=["reason"]
    )
    for reason, count in totals.failures_by_reason.items():
        failures.add_metric([reason], count)
    yield failures


def _step_durations(totals: RunTotals) -> Metric:
    durations = SummaryMetricFamily(
        "penstock_step_duration_seconds",
        "Seconds that finished steps took, from their first start.",
        labels=["pipeline", "step"],
    )
    for step in totals.steps:
        durations.add_metric([step.pipeline, step.step], step.count, step.seconds)
    return durations


def _claude(totals: RunTotals) -> Iterable[Metric]:
    tokens = CounterMetricFamily(
        "penstock_claude_tokens", "Tokens that calls to Claude used, by kind.", labels=["kind"]
    )
    usage = totals.usage
    tokens.add_metric(["input"], usage.input_tokens)
    tokens.add_metric(["output"], usage.output_tokens)
    tokens.add_metric(["cache_read"], usage.cache_read_input_tokens)
    tokens.add_metric(["cache_creation"], usage.cache_creation_input_tokens)
    yield tokens
    yield CounterMetricFamily(
        "penstock_claude_cost_usd", "US dollars that calls to Claude cost.", float(totals.cost_usd)
    )
