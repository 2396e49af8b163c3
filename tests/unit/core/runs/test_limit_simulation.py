"""Many calls against limits that are enforced: quick, and hardly ever refused."""

from dataclasses import replace
from itertools import pairwise

import pytest

from services.core.runs.limit_learning import LimitRules
from services.core.runs.limit_state import Caps
from tests.fakes.limit_simulation import LimitedClaude, Simulation, some_calls

BY_REQUESTS = (240, 10_000_000, 10_000_000)
BY_INPUT = (100_000, 400_000, 10_000_000)
BY_OUTPUT = (100_000, 10_000_000, 70_000)
MAX_SLOWNESS = 1.15
MAX_LIMITED = 0.01


@pytest.mark.parametrize("processes", [1, 2, 4])
@pytest.mark.parametrize("limits", [BY_REQUESTS, BY_INPUT, BY_OUTPUT])
@pytest.mark.parametrize("counts_output_at_once", [True, False])
def test_a_thousand_calls_take_hardly_longer_than_they_must(
    limits: tuple[float, float, float], processes: int, *, counts_output_at_once: bool
) -> None:
    """Within 1.15 times the ideal time, and under 1 % answered 429, whatever limit it is."""
    calls = some_calls(seed=7, number=1000)
    claude = LimitedClaude(limits, counts_output_at_once=counts_output_at_once)
    simulation = Simulation(claude, processes=processes)

    simulation.run(calls)

    assert simulation.answered == 1000
    assert simulation.elapsed_s < MAX_SLOWNESS * claude.ideal_s(calls)
    assert simulation.limited < MAX_LIMITED * simulation.asked


def test_buckets_that_hold_less_than_a_minute_are_found_out() -> None:
    """After a rest a burst finds less than the limit: that is learned, and costs few 429."""
    claude = LimitedClaude((600, 10_000_000, 10_000_000), burst_s=5)
    simulation = Simulation(claude, processes=2)
    simulation.run(some_calls(seed=1, number=300))
    limited = []
    for _ in range(5):
        simulation.rest(120)
        before = simulation.limited
        simulation.run(some_calls(seed=2, number=300))
        limited.append(simulation.limited - before)

    assert simulation.answered == 1800
    assert limited[0] > 30
    assert max(limited[1:]) < 3


def test_a_burst_whose_calls_overtake_each_other_tells_nothing_wrong() -> None:
    """Its first call may see what its last one has left: that is no smaller bucket, nor one that others use."""
    calls = [replace(call, duration_s=1.2) for call in some_calls(seed=4, number=1000)]
    claude = LimitedClaude((400, 10_000_000, 10_000_000))
    simulation = Simulation(claude, processes=2, connects_s=2.0)

    simulation.run(calls)

    assert simulation.state.requests.most is None
    assert simulation.elapsed_s < MAX_SLOWNESS * claude.ideal_s(calls)
    assert simulation.limited < MAX_LIMITED * simulation.asked


def test_nobody_comes_back_more_often_than_once_a_minute_or_so() -> None:
    """Work that waits costs little: a backlog of ten minutes is no storm."""
    calls = some_calls(seed=3, number=2000)
    claude = LimitedClaude((200, 10_000_000, 10_000_000))
    simulation = Simulation(claude)

    simulation.run(calls)

    minutes = simulation.elapsed_s / 60
    assert simulation.parked < 1.5 * minutes * len(calls) / 2


def test_limits_that_are_lowered_midway_are_kept_from_then_on() -> None:
    """The next headers tell them; what is refused until then is little."""
    calls = some_calls(seed=5, number=1000)
    claude = LimitedClaude((600, 10_000_000, 10_000_000))
    simulation = Simulation(claude, processes=2)
    simulation.at(30, lambda: claude.set_limits((200, 1e7, 1e7), now_s=simulation.now_s))

    simulation.run(calls)

    late = sum(begun_s > 60 for begun_s in simulation.begun_s())
    assert simulation.answered == 1000
    assert simulation.limited < 0.02 * simulation.asked
    assert late / (simulation.elapsed_s - 60) * 60 < 220


def test_limits_that_are_raised_midway_are_used_from_then_on() -> None:
    """The next headers tell them, and nobody was sent away for long."""
    calls = some_calls(seed=5, number=1000)
    claude = LimitedClaude((100, 10_000_000, 10_000_000))
    simulation = Simulation(claude, processes=2)
    simulation.at(60, lambda: claude.set_limits((1000, 1e7, 1e7), now_s=simulation.now_s))

    simulation.run(calls)

    assert simulation.elapsed_s < 60 + 100


def test_others_who_use_the_same_key_are_noticed() -> None:
    """Half of the limit goes to somebody else: their share shows in the headers."""
    calls = some_calls(seed=9, number=400)
    claude = LimitedClaude((240, 10_000_000, 10_000_000))
    simulation = Simulation(claude)

    def steal() -> None:
        claude.seen(now_s=simulation.now_s)
        claude.remaining[0] = max(0.0, claude.remaining[0] - 2)
        simulation.at(1.0, steal)

    steal()
    simulation.run(calls)

    assert simulation.answered == 400
    assert simulation.limited < 0.05 * simulation.asked


def test_a_bound_of_settings_holds() -> None:
    """What is set bounds what is learned."""
    calls = some_calls(seed=5, number=400)
    claude = LimitedClaude((6000, 10_000_000, 10_000_000))
    simulation = Simulation(claude, processes=2, rules=LimitRules(caps=Caps(requests=60)))

    simulation.run(calls)

    begun = sorted(simulation.begun_s())
    windows = zip(begun, begun[121:], strict=False)
    assert min(last - first for first, last in windows) >= 59  # a bucket of 60, and 60 a minute
    assert simulation.elapsed_s < MAX_SLOWNESS * (340 + 6.5)


def test_a_429_storm_ends_by_itself() -> None:
    """Everything is used up by others, for a while: few calls find out, and the rate comes back."""
    calls = some_calls(seed=11, number=600)
    claude = LimitedClaude((600, 10_000_000, 10_000_000))
    simulation = Simulation(claude, processes=4)

    def use_up() -> None:
        claude.seen(now_s=simulation.now_s)
        claude.remaining[0] = 0.0
        if simulation.elapsed_s < 60:
            simulation.at(0.5, use_up)

    simulation.at(0, use_up)
    simulation.run(calls)

    assert simulation.answered == 600
    assert simulation.limited < 60
    assert simulation.elapsed_s < 60 + 1.5 * 60 + 30
    assert simulation.state.factor > 0.9


def test_an_overload_is_met_by_few_calls_and_ends_by_a_probe() -> None:
    """The breaker keeps all but a probe each half minute from calling; then all goes on."""
    calls = some_calls(seed=13, number=1000)
    claude = LimitedClaude((600, 10_000_000, 10_000_000))
    simulation = Simulation(claude, processes=4)

    def overload(*, is_overloaded: bool) -> None:
        claude.is_overloaded = is_overloaded

    simulation.at(20, lambda: overload(is_overloaded=True))
    simulation.at(320, lambda: overload(is_overloaded=False))
    simulation.run(calls)

    during = [begun_s for begun_s in simulation.begun_s() if 60 < begun_s < 320]
    assert simulation.answered == 1000
    assert len(during) <= 10
    assert simulation.failed < 60
    assert simulation.elapsed_s < 320 + 30 + 1.5 * 60
    assert not simulation.state.is_breaker_open


def test_large_calls_get_their_turn_among_many_small_ones() -> None:
    """Small ones would take all room as it comes up; one in fifty takes a third of the bucket."""
    small = some_calls(seed=17, number=980, input_tokens=1000)
    large = some_calls(seed=18, number=20, input_tokens=60_000)
    calls = [*large, *small]
    claude = LimitedClaude((10_000, 200_000, 10_000_000))
    simulation = Simulation(claude, processes=2)

    simulation.run(calls)

    begun_s = sorted(simulation.begun_s(min_input_tokens=12_000))
    assert simulation.answered == 1000
    assert simulation.elapsed_s < MAX_SLOWNESS * claude.ideal_s(calls)
    assert max(after - before for before, after in pairwise(begun_s)) < 200
