"""The record's figures for Prometheus: the same from every process, since they are read, not counted."""

from collections.abc import Iterable

from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from services.core.runs.models import RunTotals
from services.core.runs.states import RunState

STEP_LABELS = ["pipeline", "step"]


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
            yield from _steps(self._totals)
            yield from _claude(self._totals)


def _queue(totals: RunTotals) -> Iterable[Metric]:
    yield GaugeMetricFamily(
        "penstock_queue_depth",
        "Queued runs, those that wait for their next try included.",
        totals.runs_by_state[RunState.QUEUED],
    )
    yield GaugeMetricFamily(
        "penstock_due_runs", "Queued runs that could be executed now.", totals.due_runs
    )
    yield GaugeMetricFamily(
        "penstock_unclaimable_runs",
        "Those of them that no living process can execute.",
        totals.unclaimable_runs,
    )
    yield GaugeMetricFamily(
        "penstock_oldest_queued_age_seconds",
        "Seconds that the oldest of them has been due; 0 if there is none.",
        totals.oldest_due_age_s,
    )


def _runs(totals: RunTotals) -> Iterable[Metric]:
    runs = GaugeMetricFamily("penstock_runs", "Runs by state.", labels=["state"])
    for state, count in totals.runs_by_state.items():
        runs.add_metric([state], count)
    yield runs
    failures = CounterMetricFamily(
        "penstock_run_failures", "Failed runs by reason.", labels=["reason"]
    )
    for reason, count in totals.failures_by_reason.items():
        failures.add_metric([reason], count)
    yield failures


def _steps(totals: RunTotals) -> Iterable[Metric]:
    durations = HistogramMetricFamily(
        "penstock_step_duration_seconds", "Seconds of tries that succeeded.", labels=STEP_LABELS
    )
    failures = CounterMetricFamily(
        "penstock_step_failures", "Tries that failed, retried or not.", labels=STEP_LABELS
    )
    for step in totals.steps:
        labels = [step.pipeline, step.step]
        buckets = [(str(bound_s), float(count)) for bound_s, count in step.durations.items()]
        durations.add_metric(
            labels, [*buckets, ("+Inf", float(step.succeeded))], sum_value=step.duration_s
        )
        failures.add_metric(labels, step.failures)
    yield durations
    yield failures


def _claude(totals: RunTotals) -> Iterable[Metric]:
    tokens = CounterMetricFamily(
        "penstock_claude_tokens",
        "Tokens that calls to Claude used; input without cached ones.",
        labels=[*STEP_LABELS, "kind"],
    )
    cost = CounterMetricFamily(
        "penstock_claude_cost_usd", "US dollars that calls to Claude cost.", labels=STEP_LABELS
    )
    hit_ratio = GaugeMetricFamily(
        "penstock_claude_cache_hit_ratio",
        "Share of input tokens that Claude read from its prompt cache.",
        labels=STEP_LABELS,
    )
    for step in totals.steps:
        labels = [step.pipeline, step.step]
        if step.usage.all_input_tokens:
            read = step.usage.cache_read_input_tokens
            hit_ratio.add_metric(labels, read / step.usage.all_input_tokens)
        tokens.add_metric([*labels, "input"], step.usage.input_tokens)
        tokens.add_metric([*labels, "output"], step.usage.output_tokens)
        tokens.add_metric([*labels, "cache_read"], step.usage.cache_read_input_tokens)
        tokens.add_metric([*labels, "cache_creation"], step.usage.cache_creation_input_tokens)
        cost.add_metric(labels, float(step.cost_usd))
    yield tokens
    yield hit_ratio
    yield cost
