"""How soon a batch of 10,000 runs is durable: `python -m tests.bench.bench_batches`, about a minute.

The API as it is deployed (gunicorn, two processes) and a real PostgreSQL, both on this machine. Each format is posted
several times; what counts is the median. Exit status 1 if that of JSON takes longer than a second.
"""

import csv
import io
import json
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import httpx

from config.postgres import PostgresSettings
from tests.integration import servers
from tests.integration.api.conftest import gunicorn, run_keys
from tests.integration.conftest import database_of, migrated

ROWS = 10_000
TIMES = 5
GOAL_S = 1.0
PROBE_PAUSE_S = 0.01


def main() -> int:
    """Measure, and print a line each."""
    has_engine = servers.uses_containers()
    postgres = servers.postgres_container if has_engine else servers.embedded_postgres
    redis = servers.redis_container if has_engine else servers.embedded_redis
    with postgres() as server, redis() as redis_settings:
        template = migrated(server)
        with database_of(server, template=template) as database:
            log = Path(tempfile.mkdtemp(prefix="bench-batches-")) / "log"
            limits = {"API_MAX_QUEUED_RUNS": "1000000"}
            with (
                gunicorn(log, database, redis_settings, **limits) as api,
                client(api.url, database) as http,
            ):
                times_s = {name: measure(http, name, body) for name, body in bodies().items()}
    return int(times_s["json"] > GOAL_S)


@contextmanager
def client(url: str, database: PostgresSettings) -> Iterator[httpx.Client]:
    """A client with a key."""
    key = run_keys(database, "create", "--name", "bench").stdout.strip()
    headers = {"Authorization": f"Bearer {key}"}
    with httpx.Client(base_url=url, headers=headers, timeout=60) as http:
        yield http


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


def measure(http: httpx.Client, name: str, body: tuple[str, bytes]) -> float:
    """Seconds from the first byte to the 202: the median of some batches; others are asked meanwhile."""
    media_type, content = body
    params = {} if name == "json" else {"pipeline": "outreach_email"}
    times_s, waits_s = [], []
    for _ in range(TIMES):
        with probing(http) as waited_s:
            began_s = time.perf_counter()
            answer = http.post(
                "/v1/batches", params=params, content=content, headers={"Content-Type": media_type}
            )
            times_s.append(time.perf_counter() - began_s)
        assert answer.status_code == 202, answer.text
        assert answer.json()["accepted"] == ROWS
        waits_s.append(max(waited_s))
        http.post(f"/v1/batches/{answer.json()['id']}/cancel").raise_for_status()
    middle_s = median(times_s)
    sys.stdout.write(
        f"{name}: {ROWS} rows, {len(content) / 1e6:.1f} MB, durable after {middle_s:.2f} s "
        f"({min(times_s):.2f} to {max(times_s):.2f}); /livez meanwhile within {max(waits_s) * 1000:.0f} ms\n"
    )
    sys.stdout.flush()
    return middle_s


@contextmanager
def probing(http: httpx.Client) -> Iterator[list[float]]:
    """Ask for a sign of life again and again; the seconds that each took."""
    waited_s = [0.0]
    is_over = threading.Event()

    def probe() -> None:
        with httpx.Client(base_url=http.base_url) as other:
            while not is_over.is_set():
                began_s = time.perf_counter()
                other.get("/livez").raise_for_status()
                waited_s.append(time.perf_counter() - began_s)
                time.sleep(PROBE_PAUSE_S)

    thread = threading.Thread(target=probe)
    thread.start()
    try:
        yield waited_s
    finally:
        is_over.set()
        thread.join()


if __name__ == "__main__":
    sys.exit(main())
