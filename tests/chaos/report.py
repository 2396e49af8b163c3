"""docs/reliability.md from the results of the full suite: `python -m tests.chaos.report`."""

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).parents[2]
RESULTS: Final = ROOT / ".run/chaos"
TARGET: Final = ROOT / "docs/reliability.md"
COUNTED: Final = {
    "accepted_but_unknown": "accepted but unknown",
    "committed_missing": "2xx without commit",
    "unfinished": "not finished",
    "finished_twice": "finished twice",
    "duplicate_checkpoints": "duplicate checkpoints",
    "stream_mismatches": "SSE missed or repeated",
    "unexpected_failures": "failed wrongly",
}
"""Guarantees with a column of their own."""
MODES: Final = {"compose": "Containers", "local": "Local processes"}

INTRODUCTION: Final = """\
# Reliability

Penstock's promise: a run that the API accepted is never lost, never silently stuck and never finished twice, and a
Claude call that was paid for and answered is never made again; at a crash, only a call in flight at that moment can
repeat. This page is the evidence. `make chaos` writes it: run it yourself.

Every row is one cell: runs are posted, the fault happens while their steps are being executed, it ends, and when
everything is quiet the record (PostgreSQL) and the ledger of the Claude simulator are held against what clients were
told. The suite is a black box: HTTP, signals, `docker`, `psql` and `redis-cli`, and not one line of Penstock's code.
"""

READING: Final = """\
## How to read it

* **accepted but unknown**: runs in the record that no client was told of, although clients repeat every POST without
  an answer under its idempotency key.
* **2xx without commit**: ids in a 2xx that the record does not have.
* **not finished**: runs that had not ended when the cell's time was up.
* **finished twice**: runs with a second final event, a second email, or an end that their events contradict.
* **duplicate checkpoints**: steps that succeeded twice, or events not numbered 1, 2, 3, ….
* **SSE missed or repeated**: clients that hang up at random moments and come back with `Last-Event-ID`, and did not
  see exactly the run's events.
* **failed wrongly**: runs that failed and must not have, or poison runs that did not fail as `crashed` after exactly
  three crashes.
* **repeated calls**: answers that the simulator gave to a question of a run that it had answered before, against the
  calls in flight: the most steps that were being executed at one moment, by the record's events, from just before the
  fault until it had taken hold; a step has one call open at most. Where several deaths belong to the fault, the bound
  is that figure for each; where nothing that makes calls is hurt, it is 0. For garbled answers, which are paid for in
  vain, it is their number. For a storm it is the sum over its faults, each from its beginning to its end.
* **recovery**: seconds from the moment that the fault is over (a SIGKILL: from the kill) to the next progress event
  of each run that was accepted and unfinished then; with the time that processes take to start. "–": none was left.
  The bound is lease + sweep + 5 s, or 5 s for SIGTERM and Redis. It is longer by the time after which a hanging call is
  given up, and as many times as long as poison runs kill their process one after the other; after a storm, which leaves
  most of its runs waiting, by a second for each 50 of them.
* **API p99**: of all POSTs during the fault and shortly after, whatever they were answered. While PostgreSQL is away
  that is the time to a 503.
"""

LIMITS: Final = """\
## What this does not show

* One machine, one PostgreSQL, one Redis. A power cut (what `fsync` promises), bit rot, a split brain of a replicated
  PostgreSQL and clocks that differ between machines are not tested.
* The lease is short here so that a cell takes seconds. With the default of 30 s a run whose process vanished waits
  for up to that long; the bound is lease + sweep + 5 s, whatever the lease is.
* Claude is a simulator. It fails as the Messages API is known to fail; what it was never seen to do is not there.
* A run that is alone in its process when that is killed three times ends as `crashed`, because from outside this
  cannot be told from poison. The suite kills isolated processes less often than that.
"""


def write(target: Path = TARGET) -> None:
    """Write the page from what there is."""
    parts = [INTRODUCTION, READING]
    for mode, title in MODES.items():
        file = RESULTS / f"{mode}-full.json"
        if file.exists():
            parts.append(section(title, json.loads(file.read_text())))
    parts.append(LIMITS)
    target.write_text("\n".join(parts))


def section(title: str, results: dict[str, Any]) -> str:
    """One mode: totals, the table, and what it depends on."""
    cells = results["cells"]
    lines = [
        f"## {title}",
        "",
        _totals(cells),
        "",
        *_table(cells),
        "",
        *_facts(results["facts"]),
        "",
    ]
    return "\n".join(lines)


def _totals(cells: list[dict[str, Any]]) -> str:
    runs = sum(cell["runs"] for cell in cells)
    sums = {name: sum(cell["broken"][name] for cell in cells) for name in COUNTED}
    told = ", ".join(f"{title} {sums[name]}" for name, title in COUNTED.items())
    storms = sum(cell["name"].startswith("storm") for cell in cells)
    missing = "" if storms else " The storms were not part of this run."
    return f"{len(cells)} cells, {runs:,} runs: {told}.{missing}"


def _table(cells: list[dict[str, Any]]) -> Iterable[str]:
    titles = [
        *("fault", "runs", *COUNTED.values()),
        *("repeated calls / in flight", "recovery p50", "recovery p99", "bound", "API p99"),
    ]
    yield f"| {' | '.join(titles)} |"
    yield f"|---|{'---:|' * (len(titles) - 1)}"
    for cell in cells:
        yield f"| {' | '.join(_row(cell))} |"


def _row(cell: dict[str, Any]) -> list[str]:
    recovery, post = cell["recovery"], cell["latency"].get("POST", {"count": 0})
    return [
        f"**{cell['name']}**: {cell['what']}",
        str(cell["runs"]),
        *(str(cell["broken"][name]) for name in COUNTED),
        f"{cell['repeated_calls']} / {cell['calls_in_flight']}",
        *(f"{recovery[name]:.1f} s" if recovery["count"] else "–" for name in ("p50_s", "p99_s")),
        f"{recovery['bound_s']:g} s",
        _latency(post),
    ]


def _latency(post: dict[str, Any]) -> str:
    answered = post["count"] - post.get("statuses", {}).get("no answer", 0)
    return f"{post['p99_s'] * 1000:.0f} ms" if answered > 0 else "no answer"


def _facts(facts: dict[str, Any]) -> Iterable[str]:
    yield f"* Commit: {facts['commit']}."
    yield f"* Machine: {facts['machine']}."
    yield f"* Versions: {', '.join(facts['versions'])}."
    settings = ", ".join(f"`{name}={value}`" for name, value in facts["settings"].items())
    yield f"* Settings: {settings}."
    yield f"* Command: `make chaos{' MODE=local' if facts['mode'] == 'local' else ''}`."


if __name__ == "__main__":
    write()
    sys.stdout.write(f"wrote {TARGET}\n")
