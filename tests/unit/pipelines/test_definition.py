"""A pipeline whose steps do not fit together does not start."""

import pytest
from pydantic import BaseModel

from services.pipelines.definition import Pipeline, Step, StepContext
from services.pipelines.registry import PIPELINES


class Seed(BaseModel):
    """The input."""


class Plant(BaseModel):
    """The output."""


async def grow(seed: Seed, context: StepContext) -> Plant:
    return Plant()


async def water(plant: Plant, context: StepContext) -> Plant:
    return plant


def test_a_step_is_known_by_its_function() -> None:
    """Name and types come from the signature."""
    step = Step(grow)

    assert (step.name, step.input_type, step.output_type) == ("grow", Seed, Plant)


def test_a_pipeline_takes_what_its_first_step_takes_and_gives_what_its_last_gives() -> None:
    """The run's input and output need no second declaration."""
    garden: Pipeline[Plant] = Pipeline("garden", "Grows.", (Step(grow), Step(water)))

    assert (garden.input_type, garden.output_type) == (Seed, Plant)
    assert garden.step_names == ("grow", "water")


def test_steps_that_do_not_fit_are_refused() -> None:
    """The message names both steps and both types."""
    with pytest.raises(TypeError, match="garden: water gives Plant, but grow takes Seed"):
        Pipeline[Plant]("garden", "Grows.", (Step(water), Step(grow)))


@pytest.mark.parametrize("steps", [(), (Step(water), Step(water))])
def test_no_steps_and_repeated_names_are_refused(steps: tuple[Step, ...]) -> None:
    """Checkpoints are kept by the steps' names."""
    with pytest.raises(TypeError, match="garden needs steps of different names"):
        Pipeline[Plant]("garden", "Grows.", steps)


def test_the_registry_knows_each_pipeline_by_its_name() -> None:
    """The API and the worker find the same pipelines."""
    assert {"outreach_email"} <= set(PIPELINES)
    assert all(name == pipeline.name for name, pipeline in PIPELINES.items())
