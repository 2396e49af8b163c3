"""From which step a run goes on when it is replayed: pure."""

from collections.abc import Sequence
from typing import NamedTuple

from services.core.errors import ReplayStepError


class PastStep(NamedTuple):
    """A step as the attempt before left it."""

    name: str
    is_done: bool


def kept_steps(
    past: Sequence[PastStep], step_names: Sequence[str], *, from_step: str | None, has_input: bool
) -> int:
    """How many checkpoints a replay keeps; the step after them is the first to be executed.

    Args:
        past: The run's steps, in order.
        step_names: The pipeline's steps of today. Only the beginning that both have in common can
            be kept, since a later step was computed from those before it.
        from_step: Where to begin; None for the first step without a checkpoint.
        has_input: Whether the input is replaced, on which every step depends.

    Raises:
        ReplayStepError: There is no such step, or the steps before it have no checkpoints, or the
            input is replaced and it is not the first.
    """
    usable = _usable_checkpoints(past, step_names)
    if from_step is None:
        kept = usable
    elif from_step in step_names:
        kept = step_names.index(from_step)
    else:
        message = f"The pipeline has no step {from_step!r}; it has {', '.join(step_names)}."
        raise ReplayStepError(message)
    if kept > usable:
        message = f"Step {from_step!r} needs step {step_names[usable]!r}, which has no checkpoint."
        raise ReplayStepError(message)
    if has_input and kept:
        message = (
            f"Another input counts from the first step on; give {step_names[0]!r} as the step."
        )
        raise ReplayStepError(message)
    return kept


def _usable_checkpoints(past: Sequence[PastStep], step_names: Sequence[str]) -> int:
    """How many steps from the beginning are the same and done."""
    usable = 0
    for step, name in zip(past, step_names, strict=False):
        if not (step.is_done and step.name == name):
            break
        usable += 1
    return usable
