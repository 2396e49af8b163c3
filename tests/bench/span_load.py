"""Spans as runs make them, at a steady rate: `python -m tests.bench.span_load TRACES` prints their cost as JSON.

Garbage is looked for as in a worker.
"""

from services.worker import boot  # isort: split

import asyncio
import json
import sys
import time

from services.core import telemetry

SPANS = 3
"""In a trace: a run, its step, and a call."""
BURST = 100
EVERY_S = 0.2
USAGE = {"input_tokens": 1200, "output_tokens": 300, "cache_read_input_tokens": 0}


async def run() -> None:
    """The spans of one run."""
    with telemetry.span("run", run_id="0199-7a", pipeline="bench", fence=1):
        with telemetry.span("step", run_id="0199-7a", step="compose_email"):
            with telemetry.span("chat model", **{"gen_ai.operation.name": "chat"}):
                await asyncio.sleep(0)
                telemetry.annotate(**USAGE, answer_id="msg_01", model="model")
            telemetry.annotate(attempt=1, cost_usd=0.0123, **USAGE)
        telemetry.annotate(ending="Finished")


async def make(traces: int) -> float:
    """Make so many traces in bursts; the longest seconds that the loop came late."""
    late_s = 0.0
    for _ in range(traces // BURST):
        await asyncio.gather(*(run() for _ in range(BURST)))
        due_s = time.monotonic() + EVERY_S
        await asyncio.sleep(EVERY_S)
        late_s = max(late_s, time.monotonic() - due_s)
    return late_s


def main(traces: int) -> None:
    """Measure."""
    telemetry.initialize(service_name="bench")
    boot.end()
    asyncio.run(make(BURST))  # connects, and fills caches
    telemetry.flush()
    began_s = time.process_time()
    late_s = asyncio.run(make(traces))
    telemetry.flush()
    cpu_ms = (time.process_time() - began_s) * 1000 / (traces * SPANS)
    sys.stdout.write(json.dumps({"CPU per span": cpu_ms, "loop late at most": late_s * 1000}))


if __name__ == "__main__":
    main(int(sys.argv[1]))
