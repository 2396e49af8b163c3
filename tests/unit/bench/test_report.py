"""The page and its pictures."""

import xml.etree.ElementTree as ET

import pytest

from tests.bench import plots, report, results
from tests.bench.benchmark import Benchmark
from tests.bench.results import Results
from tests.unit.bench.test_results import EMPTY, ROUNDS, make


def both() -> tuple[Results, dict[str, Benchmark]]:
    """Results of one benchmark; another was never measured."""
    benchmarks = {"fake": make(), "later": make("later")}
    return results.merge(EMPTY, benchmarks["fake"], ROUNDS, load=1.25), benchmarks


def test_the_page_has_goals_and_tables(tmp_path):
    page = tmp_path / "performance.md"
    report.write(*both(), page=page)

    text = page.read_text()
    assert "| Fast | ≥ 2 × | 4 × | met | [fake](#fake) |" in text
    assert "| Fast | ≥ 2 × | not yet | | later |" in text
    assert "| subject | rate, 1/s | ratio |" in text
    assert "| Penstock | 20 (10 to 30) | 1.00 |" in text
    assert "| peer | 5 | 0.25 |" in text
    assert "Load average before: 1.2" in text
    assert (tmp_path / "images/bench-fake.svg").exists()


def test_what_is_written_by_hand_stays(tmp_path):
    page = tmp_path / "performance.md"
    report.write(*both(), page=page)
    text = page.read_text().replace("# Performance\n", "# Performance\n\nBy hand.\n")
    page.write_text(f"{text}\nAnd below, with \\1.\n")
    before = page.read_text()
    report.write(*both(), page=page)

    assert before == page.read_text()


def test_a_missed_goal_stands_out():
    measured, benchmarks = both()
    measured["goals"][0]["met"] = False

    assert any("**missed**" in line for line in report.goals_block(measured, benchmarks))


def test_the_page_names_the_versions_of_the_peers():
    lines = "\n".join(report.goals_block(*both()))

    assert "taskiq 0." in lines
    assert "celery 5.7" in lines


def test_a_picture_is_well_formed_whatever_its_words():
    measured, _ = both()
    picture = ET.fromstring(plots.draw('<"Fast" & so on>', measured["rows"]))  # noqa: S314 - our own

    bars = picture.findall("{http://www.w3.org/2000/svg}rect")
    assert ["ours", "other"] == [bar.get("class") for bar in bars]
    assert float(bars[0].get("width") or 0) == pytest.approx(
        4 * float(bars[1].get("width") or 0), rel=0.01
    )


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0, "0"),
        (4384.4, "4,380"),
        (382.2, "382"),
        (38.24, "38.2"),
        (0.05834, "0.0583"),
        (5e-5, "5.0e-05"),
    ],
)
def test_figures_have_three_digits(value, shown):
    assert shown == plots.number(value)
