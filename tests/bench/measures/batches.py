"""How soon a batch of 10,000 runs is durable, in each of its formats; others are asked meanwhile."""

import csv
import io
import json
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from statistics import median
from typing import Any

import httpx

from tests.bench.benchmark import Benchmark, Goal, median_of
from tests.bench.stack import running_stack

ROWS = 10_000
TIMES = 5
PROBE_PAUSE_S = 0.01
SETTINGS = {
    "API_MAX_QUEUED_RUNS": "1000000",
    # Runs are accepted only where somebody could execute them; here nobody does.
    "ANTHROPIC_SIMULATOR_URL": "http://127.0.0.1:9",
}


def penstock() -> Mapping[str, float]:
    """Each format some times, each time to the 202, which comes after the commit."""
    with running_stack(**SETTINGS) as stack, stack.api() as (url, _):
        headers = {"Authorization": f"Bearer {stack.key}"}
        with httpx.Client(base_url=url, headers=headers, timeout=60) as http:
            told: dict[str, float] = {}
            waits_s: list[float] = []
            for name, (media_type, body) in bodies().items():
                with probing(url) as waited_s:
                    told[f"{name}_s"] = median(
                        post(http, media_type, body, is_json=name == "json") for _ in range(TIMES)
                    )
                waits_s += waited_s
    return told | {"others_ms": max(waits_s) * 1000}


def bodies() -> dict[str, tuple[str, bytes]]:
    """The same rows in each format: (media type, body)."""
    rows = [row(number) for number in range(ROWS)]
    table = io.StringIO(newline="")
    writer = csv.writer(table)
    writer.writerow(["template", "template_type", "recipient.name", "sender"])
    writer.writerows(
        [r["template"], r["template_type"], r["recipient"]["name"], r["sender"]] for r in rows
    )
    whole = {"pipeline": "outreach_email", "inputs": rows}
    return {
        "json": ("application/json", json.dumps(whole).encode()),
        "ndjson": ("application/x-ndjson", "\n".join(map(json.dumps, rows)).encode()),
        "csv": ("text/csv", table.getvalue().encode()),
    }


def row(number: int) -> dict[str, Any]:
    """An input as a client may send it."""
    return {
        "template": "Dear {{name}},\n\nI read {{recent_paper}} with great interest. Could we talk for twenty "
        "minutes next week?\n\nKind regards\n{{sender}}",
        "template_type": "general",
        "recipient": {"name": f"Dr. Elena Marsh the {number}th"},
        "sender": "Sam Okafor",
    }


def post(http: httpx.Client, media_type: str, body: bytes, *, is_json: bool) -> float:
    """Seconds from the first byte to the 202; cancels the batch afterwards."""
    params = {} if is_json else {"pipeline": "outreach_email"}
    headers = {"Content-Type": media_type}
    began_s = time.perf_counter()
    answer = http.post("/v1/batches", params=params, content=body, headers=headers)
    took_s = time.perf_counter() - began_s
    assert answer.status_code == 202, answer.text
    assert answer.json()["accepted"] == ROWS
    http.post(f"/v1/batches/{answer.json()['id']}/cancel").raise_for_status()
    return took_s


@contextmanager
def probing(url: str) -> Iterator[list[float]]:
    """Ask for a sign of life again and again; the seconds that each took."""
    waited_s = [0.0]
    is_over = threading.Event()

    def probe() -> None:
        with httpx.Client(base_url=url) as other:
            while not is_over.wait(PROBE_PAUSE_S):
                began_s = time.perf_counter()
                other.get("/livez").raise_for_status()
                waited_s.append(time.perf_counter() - began_s)

    thread = threading.Thread(target=probe)
    thread.start()
    try:
        yield waited_s
    finally:
        is_over.set()
        thread.join()


BENCHMARK = Benchmark(
    name="batches",
    title="Accepting a batch",
    what=(
        f"POST /v1/batches with {ROWS:,} inputs of `outreach_email`, some 2 MB, to the answer that comes after the "
        f"commit: the median of {TIMES} of each format. Meanwhile /livez is asked all the time; its longest wait."
    ),
    units={"json_s": "s", "ndjson_s": "s", "csv_s": "s", "others_ms": "ms"},
    subjects={"Penstock": penstock},
    goals=(
        Goal(
            name="POST /v1/batches, 10,000 inputs, to durable",
            bound=1,
            unit="s",
            is_at_most=True,
            of=lambda rounds: median_of(rounds, "Penstock", "json_s"),
        ),
    ),
)
