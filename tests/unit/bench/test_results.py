"""What is kept of a benchmark's rounds."""

from math import nan

from tests.bench import results
from tests.bench.benchmark import Benchmark, Goal, median_of
from tests.bench.results import Results

FAST = Goal(
    name="Fast",
    bound=2,
    unit="×",
    is_at_most=False,
    of=lambda rounds: median_of(rounds, "Penstock", "rate") / median_of(rounds, "peer", "rate"),
)
EMPTY = Results(machine={}, goals=[], rows=[])


def make(name: str = "fake") -> Benchmark:
    """Two subjects and a goal."""
    return Benchmark(
        name=name,
        title="Fake",
        what="Nothing.",
        units={"rate": "1/s"},
        subjects={"Penstock": dict, "peer": dict},
        goals=(FAST,),
    )


ROUNDS = {"Penstock": [{"rate": 30.0}, {"rate": 10.0}, {"rate": 20.0}], "peer": [{"rate": 5.0}]}


def test_a_row_has_the_median_and_the_spread():
    merged = results.merge(EMPTY, make(), ROUNDS, load=0.5)

    row = merged["rows"][0]
    assert {
        "benchmark": "fake",
        "subject": "Penstock",
        "value": "rate",
        "unit": "1/s",
        "median": 20,
        "min": 10,
        "max": 30,
        "rounds": 3,
        "load": 0.5,
    } == row


def test_a_goal_says_what_was_measured():
    merged = results.merge(EMPTY, make(), ROUNDS, load=0)

    goal = merged["goals"][0]
    assert ("Fast", "≥ 2", 4, "×", True) == (
        *(goal["name"], goal["goal"], goal["measured"], goal["unit"]),
        goal["met"],
    )


def test_a_goal_is_missed_when_a_peer_failed():
    """What was not measured is not met."""
    merged = results.merge(EMPTY, make(), {**ROUNDS, "peer": []}, load=0)

    assert [(None, False)] == [(goal["measured"], goal["met"]) for goal in merged["goals"]]
    assert ["Penstock"] == [row["subject"] for row in merged["rows"]]


def test_what_is_no_number_is_not_kept():
    """JSON has none such, and a goal is not met by it."""
    benchmark = make()
    rounds = {"Penstock": [{"rate": nan}, {"rate": 2.0}, {}], "peer": [{"rate": nan}]}
    merged = results.merge(EMPTY, benchmark, rounds, load=0)

    assert [(2, 1)] == [(row["median"], row["rounds"]) for row in merged["rows"]]
    assert [(None, False)] == [(goal["measured"], goal["met"]) for goal in merged["goals"]]


def test_measures_can_be_made_one_at_a_time():
    first = results.merge(EMPTY, make("first"), ROUNDS, load=0)
    both = results.merge(first, make("second"), ROUNDS, load=0)
    again = results.merge(both, make("first"), {"Penstock": [{"rate": 7.0}]}, load=0)

    assert ["second", "second", "first"] == [row["benchmark"] for row in again["rows"]]
    assert ["second", "first"] == [goal["benchmark"] for goal in again["goals"]]
    assert 7 == again["rows"][-1]["median"]


def test_results_survive_the_file(tmp_path):
    merged = results.merge(EMPTY, make(), ROUNDS, load=0)
    results.write(merged, tmp_path / "results.json")

    assert merged == results.read(tmp_path / "results.json")
    assert EMPTY == results.read(tmp_path / "none.json")
