"""Which checkpoints a replay may keep."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.core.errors import ReplayStepError
from services.core.runs.replay_plan import PastStep, kept_steps

NAMES = ("a", "b", "c")


def past(done: str, names: str = "abc") -> list[PastStep]:
    """Steps, of which some are done."""
    return [PastStep(name, name in done) for name in names]


@pytest.mark.parametrize(
    ("done", "from_step", "kept"),
    [
        ("", None, 0),
        ("a", None, 1),
        ("ab", None, 2),
        ("abc", None, 3),
        ("b", None, 0),
        ("ac", None, 1),
        ("ab", "a", 0),
        ("ab", "b", 1),
        ("ab", "c", 2),
        ("abc", "c", 2),
        ("", "a", 0),
    ],
)
def test_what_is_kept(done: str, from_step: str | None, kept: int) -> None:
    """The checkpoints before the step; by default, before the first step without one."""
    assert kept == kept_steps(past(done), NAMES, from_step=from_step, has_input=False)


@pytest.mark.parametrize(
    ("done", "from_step", "has_input", "message"),
    [
        ("a", "x", False, "The pipeline has no step 'x'; it has a, b, c."),
        ("a", "c", False, "Step 'c' needs step 'b', which has no checkpoint."),
        ("", "b", False, "Step 'b' needs step 'a', which has no checkpoint."),
        ("b", "c", False, "Step 'c' needs step 'a', which has no checkpoint."),
        ("ab", "b", True, "counts from the first step on; give 'a'"),
        ("ab", None, True, "counts from the first step on; give 'a'"),
    ],
)
def test_what_is_refused(
    done: str,
    from_step: str | None,
    has_input: bool,  # noqa: FBT001 - a parameter of the table
    message: str,
) -> None:
    """A step whose input would be missing, and an input that no step would see."""
    with pytest.raises(ReplayStepError, match=message):
        kept_steps(past(done), NAMES, from_step=from_step, has_input=has_input)


@pytest.mark.parametrize(
    ("names", "kept"),
    [("abc", 3), ("abcd", 3), ("ab", 2), ("axc", 1), ("xabc", 0), ("acb", 1), ("", 0)],
)
def test_a_pipeline_that_has_changed(names: str, kept: int) -> None:
    """Only the beginning that both have in common was computed as it would be today."""
    assert kept == kept_steps(past("abc"), names, from_step=None, has_input=False)


STEPS = st.lists(st.sampled_from("abcd"), unique=True, max_size=4)


@given(
    before=st.lists(st.tuples(st.sampled_from("abcd"), st.booleans()), max_size=4),
    today=STEPS,
    from_step=st.none() | st.sampled_from("abcde"),
    has_input=st.booleans(),
)
def test_nothing_is_kept_that_was_not_done(
    before: list[tuple[str, bool]],
    today: list[str],
    from_step: str | None,
    has_input: bool,  # noqa: FBT001 - drawn
) -> None:
    """Whatever is asked for: each kept step is done, in its place, and before the one given."""
    steps = [PastStep(*step) for step in before]
    try:
        kept = kept_steps(steps, today, from_step=from_step, has_input=has_input)
    except ReplayStepError:
        return

    assert [(name, True) for name in today[:kept]] == before[:kept]
    assert from_step is None or today[kept] == from_step
    assert not (has_input and kept)
