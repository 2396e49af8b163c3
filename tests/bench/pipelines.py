"""Pipelines that do next to nothing, so that what is measured is Penstock."""

from pydantic import BaseModel, ConfigDict

from services.core.claude.protocol import ClaudeRequest
from services.pipelines.definition import Pipeline, Step, StepContext
from services.pipelines.registry import PIPELINES


class BenchInput(BaseModel):
    """What a run is given and gives: about 180 bytes, like the tasks of the peers."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    number: int = 0
    text: str = ""


async def do_nothing(value: BenchInput, _context: StepContext) -> BenchInput:
    """Give back what came."""
    return value


async def ask(value: BenchInput, context: StepContext) -> BenchInput:
    """Make one call to Claude."""
    request = ClaudeRequest(system="", prompt=f"{value.number}: {value.text}", max_tokens=64)
    return (await context.claude.ask(request, BenchInput)).answer


NOOP = Pipeline("bench_noop", "One step that does nothing.", (Step(do_nothing),))
ONE_CALL = Pipeline("bench_one_call", "One step with one call to Claude.", (Step(ask),))


def register() -> None:
    """Add them to what this process knows; before an app is made."""
    PIPELINES.update({pipeline.name: pipeline for pipeline in (NOOP, ONE_CALL)})
