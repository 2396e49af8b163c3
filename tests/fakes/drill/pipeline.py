"""The drill: three steps that sleep and make one paid call each, and one of which can be poisoned.

It lives in the trees that chaos tests run (tests/chaos/tree.py), never in what is deployed.
"""

import asyncio

from services.core.claude.protocol import ClaudeRequest
from services.pipelines.definition import Pipeline, Step, StepContext
from tests.fakes.drill import poison
from tests.fakes.drill.schemas import DrillInput, DrillOutput, Progress, Word

MAX_TOKENS = 64


async def first(plan: DrillInput, context: StepContext) -> Progress:
    """Begin."""
    seconds = plan.seconds if plan.first_seconds is None else plan.first_seconds
    patient = plan.model_copy(update={"seconds": seconds})
    return Progress(plan=plan, words=(await work(patient, context),))


async def second(progress: Progress, context: StepContext) -> Progress:
    """Go on."""
    word = await work(progress.plan, context)
    return Progress(plan=progress.plan, words=(*progress.words, word))


async def third(progress: Progress, context: StepContext) -> DrillOutput:
    """End."""
    word = await work(progress.plan, context)
    return DrillOutput(words=(*progress.words, word), filling="x" * progress.plan.size)


async def work(plan: DrillInput, context: StepContext) -> str:
    """Sleep, take the poison if it is this step's turn, and make the step's one paid call.

    The prompt names run and step, so that the simulator's ledger tells the calls apart.
    """
    await asyncio.sleep(plan.seconds)
    is_struck = plan.poison_tries is None or context.attempt <= plan.poison_tries
    if context.step == plan.poison_step and is_struck:
        poison.take(plan)
    prompt = f"Run {context.run_id}, step {context.step}: say done."
    request = ClaudeRequest(system="This is a drill.", prompt=prompt, max_tokens=MAX_TOKENS)
    return (await context.claude.ask(request, Word)).answer.word


DRILL = Pipeline("drill", "Sleeps and asks, three times.", (Step(first), Step(second), Step(third)))
SHIFTING = Pipeline(
    "drill_shifting",
    "A drill whose last step has another name in the next release.",
    (Step(first), Step(second), Step(third)),
)
DRILLS = (DRILL, SHIFTING)
