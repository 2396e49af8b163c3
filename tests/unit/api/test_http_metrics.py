"""Figures of requests, written down together."""

import pytest
from prometheus_client import CollectorRegistry, Histogram

from services.api import http_metrics
from services.api.http_metrics import BUCKETS_S, HttpMetrics

SECONDS = (0.0, 0.005, 0.0051, 0.3, 10.0, 11.0, 0.3)


async def test_figures_are_those_of_each_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the library counts one by one."""
    monkeypatch.setattr(http_metrics, "TELL_AFTER_S", 60)
    metrics = HttpMetrics(multiprocess_dir=None)
    registry = CollectorRegistry()
    usual = Histogram(
        "penstock_http_request_duration_seconds", "-", buckets=BUCKETS_S, registry=registry
    )

    for seconds in SECONDS:
        metrics.measure("GET", "/x", 200, seconds)
        usual.observe(seconds)
    metrics.measure("GET", "/x", 404, 0.1)
    usual.observe(0.1)

    counted, durations = metrics.collect()
    (expected,) = registry.collect()
    assert _values(expected.samples) == _values(durations.samples)
    totals = {s.labels["status"]: s.value for s in counted.samples if s.name.endswith("_total")}
    assert totals == {"200": len(SECONDS), "404": 1}


def _values(samples: object) -> dict[tuple[str, str], float]:
    """Without the times of creation."""
    return {
        (sample.name, sample.labels.get("le", "")): sample.value
        for sample in samples  # type: ignore[attr-defined]  # the library's list
        if not sample.name.endswith("_created")
    }
