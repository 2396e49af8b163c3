"""A whole run while its model is overloaded: the configured other model writes the answer."""

import asyncio
from collections.abc import Callable

from config.anthropic import AnthropicSettings
from services.core.claude.anthropic_claude import AnthropicClaude
from services.core.clock import utc_now
from services.core.runs.call_limiter import LimitRules
from services.core.runs.models import ApiKey, NewRun, Run, shape_of
from services.core.runs.states import RunState
from services.core.runs.store import RunStore
from services.pipelines.summarize_documents.pipeline import SUMMARIZE_DOCUMENTS
from services.worker.executor import Limits, Outside, RunExecutor
from services.worker.retry import RetryPolicy
from tests.fakes.told_texts import ToldTexts
from tests.integration.claude.conftest import RunningSimulator

FAULTS = 2
"""Overloads in a row after which the breaker opens."""
PAUSE_S = 600.0
"""Longer than the test: the breaker stays open."""
MODEL = AnthropicSettings().model
SPARE = "claude-haiku-5-5"


async def test_a_run_is_answered_by_the_fallback_model_while_the_breaker_is_open(
    store: RunStore,
    api_key: ApiKey,
    make_claude: Callable[..., AnthropicClaude],
    simulator: RunningSimulator,
) -> None:
    """It is in the result and in the record, and the overloaded model is asked no more."""
    simulator.fail("overloaded", count=FAULTS)

    run = await _run(store, api_key, make_claude(fallback_model=SPARE))

    assert RunState.SUCCEEDED == run.state
    assert run.output is not None
    assert SPARE == run.output["model"]
    asked = [call["model"] for call in simulator.requests()]
    assert [MODEL] * FAULTS == asked[:FAULTS]
    assert {SPARE} == set(asked[FAULTS:])


async def test_without_a_fallback_model_a_run_waits_for_its_own(
    store: RunStore,
    api_key: ApiKey,
    make_claude: Callable[..., AnthropicClaude],
    simulator: RunningSimulator,
) -> None:
    """It is parked: no try is used up, and no call made."""
    simulator.fail("overloaded", count=FAULTS)

    run = await _run(store, api_key, make_claude())

    assert RunState.QUEUED == run.state
    assert FAULTS == len(simulator.requests())


async def _run(store: RunStore, api_key: ApiKey, claude: AnthropicClaude) -> Run:
    """A run over one short text, once it has ended or waits for the breaker."""
    executor = RunExecutor(
        store,
        Outside(claude, web=None, arxiv_url=""),
        admits=store.open_limiter(LimitRules(breaker_faults=FAULTS, breaker_pause_s=PAUSE_S)),
        pipelines={SUMMARIZE_DOCUMENTS.name: SUMMARIZE_DOCUMENTS},
        texts=ToldTexts(),  # type: ignore[arg-type]  # has what is needed
        retry_policy=RetryPolicy(5, backoff_s=0.01, backoff_max_s=0.1),
        limits=Limits(step_s=60, run_s=3600),
    )
    shape = shape_of(SUMMARIZE_DOCUMENTS.name, SUMMARIZE_DOCUMENTS.step_names)
    text = {"documents": [{"text": "Penstocks carry water."}], "length": "short"}
    new = NewRun(api_key.id, SUMMARIZE_DOCUMENTS.name, text, tuple(SUMMARIZE_DOCUMENTS.step_names))
    run, _ = await store.accept_run(new)
    async with asyncio.timeout(30):
        while True:
            for lease in await store.claim_due_runs(owner="test", limit=5, shapes=[shape]):
                await executor.record(lease, await executor.execute(lease))
            run = await store.get_run(api_key.id, run.id)
            if run.finished_at or _waits_long(run):
                return run
            await asyncio.sleep(0.05)


def _waits_long(run: Run) -> bool:
    """Nothing happens to it for as long as the breaker is open."""
    return run.next_at is not None and (run.next_at - utc_now()).total_seconds() > 30
