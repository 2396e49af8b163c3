"""What a span costs, sent to Logfire or not."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping

from tests.bench.benchmark import Benchmark, Goal, Rounds, median_of
from tests.bench.span_load import BURST, SPANS
from tests.bench.stack import ROOT
from tests.fakes.otlp_collector import OtlpCollector

TRACES = 3000
TOKEN = "pylf_v1_us_0123456789"
TIMEOUT_S = 120


def measure(**settings: str) -> Mapping[str, float]:
    """One process that makes spans at 1,500 a second, and a Logfire of ours that counts them."""
    with OtlpCollector().running() as logfire:
        own = dict(os.environ)  # noqa: TID251 - handed on
        environment = own | {"LOGFIRE_BASE_URL": logfire.url} | settings
        command = [sys.executable, "-m", "tests.bench.span_load", str(TRACES)]
        done = subprocess.run(
            command, cwd=ROOT, env=environment, check=True, capture_output=True, timeout=TIMEOUT_S
        )
        ended = sum(
            span.attributes.get("logfire.span_type") != "pending_span" for span in logfire.spans
        )
    made = (TRACES + BURST) * SPANS
    return {**json.loads(done.stdout), "sent": 100 * ended / made}


def on() -> Mapping[str, float]:
    """Every trace is sent."""
    return measure(LOGFIRE_TOKEN=TOKEN)


def unsampled() -> Mapping[str, float]:
    """Logfire is on, and no trace is sampled."""
    return measure(LOGFIRE_TOKEN=TOKEN, LOGFIRE_TRACE_SAMPLE_RATE="0")


def off() -> Mapping[str, float]:
    """No token."""
    return measure(LOGFIRE_TOKEN="")


def cpu_per_span_ms(rounds: Rounds) -> float:
    """Milliseconds of CPU for a span that is sent."""
    return median_of(rounds, "Penstock", "CPU per span")


BENCHMARK = Benchmark(
    name="spans",
    title="Telemetry",
    what=f"{TRACES * SPANS:,} spans as runs make them, {SPANS} to a trace, 1,500 a second in one process, sent to a"
    " stand-in for Logfire: the CPU time of the whole process for each, with what exporting takes, and how late the"
    " event loop was at most.",
    units={"CPU per span": "ms", "loop late at most": "ms", "sent": "%"},
    subjects={"Penstock": on, "nothing sampled": unsampled, "no token": off},
    goals=(
        Goal(
            name="Logfire on, CPU per span",
            bound=0.15,
            unit="ms",
            is_at_most=True,
            of=cpu_per_span_ms,
        ),
    ),
)
