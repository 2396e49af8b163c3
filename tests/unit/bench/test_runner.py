"""Benchmarks with subjects that measure nothing."""

import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack

import pytest

from tests.bench import runner
from tests.bench.benchmark import Benchmark


def make(**subjects: Callable[[], Mapping[str, float]]) -> Benchmark:
    """A benchmark of two rounds."""
    units = {"rate": "1/s"}
    return Benchmark(
        name="fake", title="Fake", what="Nothing.", units=units, subjects=subjects, rounds=2
    )


def test_rounds_of_subjects_are_interleaved():
    """Whatever else the machine does, all subjects meet some of it."""
    order: list[str] = []

    def note(name: str) -> Callable[[], Mapping[str, float]]:
        return lambda: order.append(name) or {"rate": float(len(order))}

    rounds = runner.run(make(a=note("a"), b=note("b")))

    assert ["a", "b", "a", "b"] == order
    assert {"a": [{"rate": 1}, {"rate": 3}], "b": [{"rate": 2}, {"rate": 4}]} == rounds


def test_the_command_line_may_ask_for_other_rounds():
    rounds = runner.run(make(a=lambda: {"rate": 1}), rounds=3)

    assert 3 == len(rounds["a"])


def test_a_subject_that_fails_costs_the_others_nothing(capsys):
    def fail() -> Mapping[str, float]:
        raise RuntimeError("no such server")

    benchmark = make(bad=fail, good=lambda: {"rate": 1})
    rounds = runner.run(benchmark)

    assert {"bad": [], "good": [{"rate": 1}, {"rate": 1}]} == rounds
    assert ["  bad: FAILED", "  good, median of 2: rate 1 1/s"] == list(
        runner.summarize(benchmark, rounds)
    )
    assert "no such server" in capsys.readouterr().err


def test_a_round_is_bounded_in_time_and_cleans_up():
    ended: list[str] = []

    def hang() -> None:
        with runner.at_most(0.05), ExitStack() as servers:
            servers.callback(ended.append, "server")
            time.sleep(30)

    with pytest.raises(runner.RoundTimeoutError):
        hang()

    assert ["server"] == ended


def test_a_round_in_time_is_not_interrupted_later():
    with runner.at_most(0.05):
        pass
    time.sleep(0.1)


def test_each_measure_is_found_under_the_name_of_its_module():
    """`make bench NAME=drain` is what docs and the page say."""
    benchmarks = runner.find_benchmarks()

    assert {"drain", "enqueue"} <= set(benchmarks)
    assert all(benchmark.rounds >= 1 for benchmark in benchmarks.values())
