"""What the samples of a soak say."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.bench.measures.soak import BENCHMARK, Sample, growths

STEADY = Sample(
    pss_mib={"api": 200.0, "worker": 100.0},
    connections=24,
    dead_share=0.01,
    bytes_per_run=4096,
    redis_mib=2,
    unfinished=80,
)


def _samples(change: Callable[[int], Sample]) -> list[Sample]:
    return [change(number) for number in range(12)]


def _missed(samples: list[Sample]) -> set[str]:
    rounds = {"Penstock": [growths(samples)]}
    return {goal.name for goal in BENCHMARK.goals if not goal.is_met(goal.of(rounds))}


def test_what_is_steady_meets_all_goals() -> None:
    """Also with a sample now and then that is far off."""
    samples = _samples(lambda _: STEADY)
    samples[-1] = replace(STEADY, connections=40, redis_mib=9, unfinished=900)

    assert not _missed(samples)


def test_warming_up_is_no_growth() -> None:
    """What grows in the first third only does not count."""
    cold = replace(STEADY, pss_mib={"api": 100.0, "worker": 50.0}, connections=4)
    samples = _samples(lambda number: cold if number < 4 else STEADY)

    assert not _missed(samples)


@pytest.mark.parametrize(
    ("goal", "change"),
    [
        ("memory", lambda n: replace(STEADY, pss_mib={"api": 200.0, "worker": 100.0 + 3 * n})),
        ("connections", lambda n: replace(STEADY, connections=24 + n)),
        ("the share of dead rows", lambda n: replace(STEADY, dead_share=0.01 * n)),
        ("the record's bytes per run", lambda n: replace(STEADY, bytes_per_run=4096 + 100 * n)),
        ("Redis' memory", lambda n: replace(STEADY, redis_mib=2 + n / 10)),
        ("unfinished runs", lambda n: replace(STEADY, unfinished=100 * n)),
    ],
)
def test_growth_misses_its_goal(goal: str, change: Callable[[int], Sample]) -> None:
    """Of each thing that may leak, and only that one's."""
    assert {f"Soak: growth of {goal}"} == _missed(_samples(change))


def test_too_few_samples_say_nothing() -> None:
    """Rather than that nothing grows."""
    with pytest.raises(AssertionError, match="too short"):
        growths([STEADY] * 8)
