"""Runs benchmarks: subjects in turn, each round bounded in time; a failure costs its subject only."""

import importlib
import pkgutil
import signal
import sys
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from statistics import median
from types import FrameType
from typing import Final, NoReturn

from tests.bench import measures
from tests.bench.benchmark import Benchmark, Measure, Rounds

ROUND_MAX_S: Final = 2700
"""The longest measure, the soak, takes half an hour and some minutes."""


class RoundTimeoutError(Exception):
    """A round took too long."""


def find_benchmarks() -> dict[str, Benchmark]:
    """All measures by name, in the order of their names."""
    modules = sorted(info.name for info in pkgutil.iter_modules(measures.__path__))
    found = [importlib.import_module(f"{measures.__name__}.{name}").BENCHMARK for name in modules]
    return {benchmark.name: benchmark for benchmark in found}


def run(benchmark: Benchmark, *, rounds: int | None = None) -> Rounds:
    """Measure, and tell of each round as it goes.

    Args:
        benchmark: What to measure.
        rounds: How often; None means as often as the benchmark wants.
    """
    times = rounds or benchmark.rounds
    report(f"\n{benchmark.title} ({benchmark.name}): {times} rounds")
    gathered: dict[str, list[Mapping[str, float]]] = {name: [] for name in benchmark.subjects}
    # A b c, A b c: whatever the machine does meanwhile, all subjects meet some of it.
    for _ in range(times):
        for name, measure in benchmark.subjects.items():
            if (values := _measure(name, measure)) is not None:
                report(f"  {name}: {_told(values, benchmark.units)}")
                gathered[name].append(values)
    return gathered


def summarize(benchmark: Benchmark, rounds: Rounds) -> Iterator[str]:
    """A line for each subject: medians."""
    for subject, given in rounds.items():
        if given:
            names = set.intersection(*(set(values) for values in given))
            shown = [name for name in benchmark.units if name in names]
            medians = {name: median(values[name] for values in given) for name in shown}
            yield f"  {subject}, median of {len(given)}: {_told(medians, benchmark.units)}"
        else:
            yield f"  {subject}: FAILED"


def report(line: str) -> None:
    """Show a line at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _measure(name: str, measure: Measure) -> Mapping[str, float] | None:
    """The values of one round; None if it failed, which is told."""
    began_s = time.monotonic()
    try:
        with at_most(ROUND_MAX_S):
            return measure()
    except Exception:  # noqa: BLE001 - whatever stops a subject, the others are still measured
        report(f"  {name}: FAILED after {time.monotonic() - began_s:.0f} s")
        traceback.print_exc()
        return None


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Interrupt what takes longer, so that it can still stop what it has started.

    Raises:
        RoundTimeoutError: It did.
    """

    def interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
        raise RoundTimeoutError(f"took more than {seconds} s")

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _told(values: Mapping[str, float], units: Mapping[str, str]) -> str:
    return ", ".join(
        f"{name} {value:.4g} {units.get(name, '')}".rstrip() for name, value in values.items()
    )
