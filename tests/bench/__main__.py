"""Measure and write docs/performance.md: `python -m tests.bench [NAME …] [--rounds N] [--list] [--page]`."""

import argparse
import os
import sys
from pathlib import Path

from tests.bench import report, results, runner
from tests.bench.benchmark import Benchmark


def main(
    arguments: list[str] | None = None, *, store: Path = results.TARGET, page: Path = report.PAGE
) -> int:
    """Exit status 1 if a goal is missed or a subject failed."""
    benchmarks = runner.find_benchmarks()
    options = _parser(benchmarks).parse_args(arguments)
    if unknown := set(options.names) - set(benchmarks):
        runner.report(f"no such measure: {', '.join(sorted(unknown))}; --list names all")
        return 2
    if options.list:
        for benchmark in benchmarks.values():
            runner.report(f"{benchmark.name:14} {benchmark.title}")
        return 0
    is_good = True
    for name in [] if options.page else options.names or list(benchmarks):
        is_good &= measure(benchmarks[name], rounds=options.rounds, store=store)
        # After each: what was measured counts, whatever becomes of the next.
        report.write(results.read(store), benchmarks, page)
    if options.page:
        report.write(results.read(store), benchmarks, page)
    return int(not is_good)


def measure(benchmark: Benchmark, *, rounds: int | None, store: Path) -> bool:
    """Measure, and keep what comes out at once; whether all is as it should be."""
    load = os.getloadavg()[0]
    given = runner.run(benchmark, rounds=rounds)
    now = results.merge(results.read(store), benchmark, given, load=load)
    results.write(now, store)
    goals = [goal for goal in now["goals"] if goal["benchmark"] == benchmark.name]
    for line in runner.summarize(benchmark, given):
        runner.report(line)
    for goal in goals:
        runner.report(f"  {report.told_goal(goal)}")
    return all(goal["met"] for goal in goals) and all(given.values())


def _parser(benchmarks: dict[str, Benchmark]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(benchmarks)}")
    parser.add_argument("--rounds", type=int, help="instead of as many as each measure wants")
    parser.add_argument("--list", action="store_true", help="say what there is, measure nothing")
    parser.add_argument("--page", action="store_true", help="write the page again, measure nothing")
    return parser


if __name__ == "__main__":
    sys.exit(main())
