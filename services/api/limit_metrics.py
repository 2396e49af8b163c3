"""Claude's limits for Prometheus: the same from every process, as all workers share them."""

from collections.abc import Iterable, Sequence

from prometheus_client.metrics_core import GaugeMetricFamily, Metric, StateSetMetricFamily
from prometheus_client.registry import Collector

from services.core.runs.call_limits import BreakerState, CallLimits

MODEL = ["model"]
KINDS = ("requests", "input_tokens", "output_tokens")


class LimitMetrics(Collector):
    """One look at the limits, as metrics; none while the record is away."""

    def __init__(self, limits: Sequence[CallLimits] | None) -> None:
        self._limits = limits or ()

    def collect(self) -> Iterable[Metric]:
        """The metrics."""
        yield self._by_kind("limit", "Requests or tokens a minute, as learned or set.", "per_min")
        yield self._by_kind("limit_left", "What of it could be used at once.", "left")
        yield self._gauge(
            "rate_factor", "Share of the limits that is used; below 1 after a 429.", "rate_factor"
        )
        yield self._gauge("paused_seconds", "Seconds for which nobody calls.", "paused_for_s")
        yield self._gauge("calls_in_flight", "Calls under way.", "calls_in_flight")
        breaker = StateSetMetricFamily(
            "penstock_claude_breaker", "Whether a model is asked at all.", labels=MODEL
        )
        for limits in self._limits:
            states = {str(state): state is limits.breaker for state in BreakerState}
            breaker.add_metric([limits.model], states)
        yield breaker

    def _by_kind(self, name: str, text: str, suffix: str) -> Metric:
        gauge = GaugeMetricFamily(f"penstock_claude_{name}", text, labels=[*MODEL, "kind"])
        for limits in self._limits:
            for kind in KINDS:
                value: float | None = getattr(limits, f"{kind}_{suffix}")
                if value is not None:
                    gauge.add_metric([limits.model, kind], value)
        return gauge

    def _gauge(self, name: str, text: str, field: str) -> Metric:
        gauge = GaugeMetricFamily(f"penstock_claude_{name}", text, labels=MODEL)
        for limits in self._limits:
            gauge.add_metric([limits.model], getattr(limits, field))
        return gauge
