"""What was measured, over many runs of the benchmarks: `tests/bench/results.json`."""

import json
import os
import platform
from collections.abc import Iterator
from math import isfinite, nan
from pathlib import Path
from statistics import median
from typing import Any, Final, TypedDict

from tests.bench.benchmark import Benchmark, Goal, Rounds

TARGET: Final = Path(__file__).with_name("results.json")


class GoalResult(TypedDict):
    """A goal, and what came of it."""

    benchmark: str
    name: str
    goal: str
    measured: float | None
    """None: could not be measured, so it is not met."""
    unit: str
    met: bool


class Row(TypedDict):
    """One value of one subject."""

    benchmark: str
    subject: str
    value: str
    unit: str
    median: float
    min: float
    max: float
    rounds: int
    load: float
    """What else the machine did: its load average of one minute before the first round."""


class Results(TypedDict):
    """All that is known."""

    machine: dict[str, str]
    goals: list[GoalResult]
    rows: list[Row]


def read(source: Path = TARGET) -> Results:
    """What there is; nothing if there is no file yet."""
    if not source.exists():
        return Results(machine={}, goals=[], rows=[])
    stored: Results = json.loads(source.read_text())
    return stored


def write(results: Results, target: Path = TARGET) -> None:
    """Keep the results."""
    target.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")


def merge(before: Results, benchmark: Benchmark, rounds: Rounds, *, load: float) -> Results:
    """Results with those of one benchmark replaced by what its rounds gave."""
    return Results(
        machine=machine(),
        goals=[goal for goal in before["goals"] if goal["benchmark"] != benchmark.name]
        + [judge(benchmark, goal, rounds) for goal in benchmark.goals],
        rows=[row for row in before["rows"] if row["benchmark"] != benchmark.name]
        + list(_rows(benchmark, rounds, load=load)),
    )


def judge(benchmark: Benchmark, goal: Goal, rounds: Rounds) -> GoalResult:
    """Whether a goal is met; one whose subjects failed is not."""
    try:
        measured: float | None = goal.of(rounds)
    except (
        ArithmeticError,
        LookupError,
        ValueError,
    ):  # how statistics and dictionaries miss a round
        measured = None
    if measured is not None and not isfinite(measured):
        measured = None
    return GoalResult(
        benchmark=benchmark.name,
        name=goal.name,
        goal=f"{'≤' if goal.is_at_most else '≥'} {goal.bound:g}",
        measured=measured,
        unit=goal.unit,
        met=measured is not None and goal.is_met(measured),
    )


def _rows(benchmark: Benchmark, rounds: Rounds, *, load: float) -> Iterator[Row]:
    for subject, name in ((s, n) for s in benchmark.subjects for n in benchmark.units):
        values = [
            given[name] for given in rounds.get(subject, ()) if isfinite(given.get(name, nan))
        ]
        if values:
            yield Row(
                benchmark=benchmark.name,
                subject=subject,
                value=name,
                unit=benchmark.units[name],
                median=median(values),
                min=min(values),
                max=max(values),
                rounds=len(values),
                load=load,
            )


def machine() -> dict[str, str]:
    """What everything ran on."""
    return {
        "processor": _field("/proc/cpuinfo", "model name"),
        "cores": str(len(os.sched_getaffinity(0))),
        "memory": f"{int(_field('/proc/meminfo', 'MemTotal').split()[0]) / 2**20:.0f} GiB",
        "system": f"{platform.system()} {platform.release().partition('-')[0]}",
        "python": platform.python_version(),
    }


def _field(path: str, name: str) -> str:
    """The first value of a `name : value` file; some processors have no name."""
    lines: list[Any] = [line.partition(":") for line in Path(path).read_text().splitlines()]
    return next((value.strip() for key, _, value in lines if key.strip() == name), "0 unknown")
