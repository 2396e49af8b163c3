"""The command, with benchmarks that measure nothing."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.bench import __main__ as command
from tests.bench import results, runner
from tests.bench.benchmark import Benchmark, Goal, median_of


def make(name: str, rate: float) -> Benchmark:
    """A benchmark with a goal of at least 5."""

    def measure() -> Mapping[str, float]:
        return {"rate": rate}

    goal = Goal(
        name=f"Rate of {name}",
        bound=5,
        unit="1/s",
        is_at_most=False,
        of=lambda rounds: median_of(rounds, "Penstock", "rate"),
    )
    return Benchmark(
        name=name,
        title=name.title(),
        what="Nothing.",
        units={"rate": "1/s"},
        subjects={"Penstock": measure},
        goals=(goal,),
    )


@pytest.fixture
def bench(monkeypatch, tmp_path):
    """Runs the command; the page and the results are in the temporary folder."""
    benchmarks = {"good": make("good", 10), "slow": make("slow", 1)}
    monkeypatch.setattr(runner, "find_benchmarks", lambda: benchmarks)

    def run(*arguments: str) -> int:
        store = tmp_path / "results.json"
        return command.main([*arguments], store=store, page=tmp_path / "performance.md")

    return run


def test_a_missed_goal_shows_in_the_exit_status(bench):
    assert 0 == bench("good", "--rounds", "1")
    assert 1 == bench("slow", "--rounds", "1")


def test_measures_that_are_made_one_at_a_time_share_a_page(bench, tmp_path: Path):
    bench("slow", "--rounds", "1")
    bench("good", "--rounds", "2")

    text = (tmp_path / "performance.md").read_text()
    assert "| Rate of good | ≥ 5 1/s | 10 1/s | met | [good](#good) |" in text
    assert "| Rate of slow | ≥ 5 1/s | 1 1/s | **missed** | [slow](#slow) |" in text
    rows = results.read(tmp_path / "results.json")["rows"]
    assert [("slow", 1), ("good", 2)] == [(row["benchmark"], row["rounds"]) for row in rows]


def test_without_names_all_are_measured(bench, tmp_path: Path):
    bench()

    assert {"good", "slow"} == {
        row["benchmark"] for row in results.read(tmp_path / "results.json")["rows"]
    }


def test_the_page_can_be_written_without_measuring(bench, tmp_path: Path):
    assert 0 == bench("--page")

    assert "not yet" in (tmp_path / "performance.md").read_text()
    assert not (tmp_path / "results.json").exists()


def test_an_unknown_name_measures_nothing(bench, tmp_path: Path, capsys):
    assert 2 == bench("good", "drian")

    assert "no such measure: drian" in capsys.readouterr().out
    assert not (tmp_path / "results.json").exists()
