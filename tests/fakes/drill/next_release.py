"""The drills of the next release: one pipeline more, and one whose last step has another name."""

from services.pipelines.definition import Pipeline, Step, StepContext
from tests.fakes.drill.pipeline import DRILL, first, second, third
from tests.fakes.drill.schemas import DrillOutput, Progress


async def last(progress: Progress, context: StepContext) -> DrillOutput:
    """End, under a name that the release before does not know."""
    return await third(progress, context)


NEXT = Pipeline(
    "drill_next",
    "A drill that the release before does not know.",
    (Step(first), Step(second), Step(third)),
)
SHIFTING = Pipeline(
    "drill_shifting",
    "A drill whose last step has another name than in the release before.",
    (Step(first), Step(second), Step(last)),
)
DRILLS = (DRILL, SHIFTING, NEXT)
