"""What a step is given besides its input, without a worker."""

from uuid import UUID

from services.pipelines.definition import StepContext
from tests.fakes.answering_claude import AnsweringClaude
from tests.fakes.step_claude import ScriptedClaude
from tests.fakes.web import FakeWeb

RUN_ID = UUID("01930000-0000-7000-8000-000000000001")
ARXIV_URL = "https://arxiv.example/api/query"


def step_context(
    *,
    claude: ScriptedClaude | AnsweringClaude | None = None,
    web: FakeWeb | None = None,
    attempt: int = 1,
) -> StepContext:
    """A context; by default Claude is never asked and no page exists."""
    return StepContext(
        run_id=RUN_ID,
        step="a step",
        attempt=attempt,
        claude=claude or ScriptedClaude(),
        web=web or FakeWeb(),
        arxiv_url=ARXIV_URL,
    )
