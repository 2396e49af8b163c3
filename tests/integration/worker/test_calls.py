"""Steps with several calls, on the real record: what was answered is never asked again."""

import asyncio
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import pytest
from pydantic import BaseModel

from services.core.claude.protocol import Answer, ClaudeReply, ClaudeRequest, OnText
from services.core.errors import ClaudeUnavailableError
from services.core.runs.models import ApiKey, Lease, NewRun, Run, shape_of
from services.core.runs.states import FailureReason, RunState
from services.core.runs.store import RunStore
from services.pipelines.concurrency import map_bounded
from services.pipelines.definition import Pipeline, Step, StepContext
from services.worker.admission import FreeAdmission
from services.worker.executor import Limits, Outside, RunExecutor
from services.worker.retry import RetryPolicy
from tests.fakes.tiny_pipeline import ScriptedClaude, Text
from tests.fakes.told_texts import ToldTexts
from tests.integration.conftest import StoreFactory

COST, WORST = Decimal("0.01"), Decimal("0.02")
CALLS = 5


class Count(BaseModel):
    """How many answers came."""

    answers: int


async def ask_all(given: Text, context: StepContext) -> Count:
    """Ask five things at once."""

    async def ask(number: int) -> str:
        request = ClaudeRequest(system="", prompt=f"{given.text} {number}")
        return (await context.claude.ask(request, Text)).answer.text

    return Count(answers=len(await map_bounded(ask, range(CALLS))))


CROWDED: Pipeline[Count] = Pipeline("crowded", "Asks a lot.", (Step(ask_all),))
SHAPES = {shape_of("crowded", CROWDED.step_names)}


class StoppingClaude(ScriptedClaude):
    """Answers some prompts, fails at others, and never answers the rest."""

    def __init__(self, *, silent: Sequence[int] = (), failing: Sequence[int] = ()) -> None:
        super().__init__()
        self._silent = silent
        self._failing = failing

    async def ask(
        self,
        request: ClaudeRequest,
        answer_type: type[Answer],
        *,
        on_text: OnText | None = None,
        ceiling_usd: Decimal | None = None,
    ) -> ClaudeReply[Answer]:
        """Do what the prompt's number says."""
        number = int(request.prompt.split()[-1])
        if number in self._silent:
            self.asked.append(request)
            await asyncio.Event().wait()
        if number in self._failing:
            self.errors = [ClaudeUnavailableError()]
        return await super().ask(request, answer_type, on_text=on_text, ceiling_usd=ceiling_usd)

    @property
    def numbers(self) -> list[int]:
        """What was asked."""
        return sorted(int(request.prompt.split()[-1]) for request in self.asked)


def executor_of(store: RunStore, claude: ScriptedClaude) -> RunExecutor:
    """A worker."""
    return RunExecutor(
        store,
        Outside(claude=claude, web=None, arxiv_url=""),  # type: ignore[arg-type]  # no step reads pages
        admits=FreeAdmission(),
        pipelines={"crowded": CROWDED},
        texts=ToldTexts(),  # type: ignore[arg-type]  # has what is needed
        retry_policy=RetryPolicy(max_attempts=3, backoff_s=0, backoff_max_s=0),
        limits=Limits(step_s=30, run_s=60),
    )


async def accept(store: RunStore, api_key: ApiKey, **fields: Any) -> Run:
    """A run of the crowded pipeline."""
    new = NewRun(api_key.id, "crowded", {"text": "What is"}, CROWDED.step_names, **fields)
    return (await store.accept_run(new))[0]


async def claim(store: RunStore) -> Lease:
    """Take the run that is due."""
    [lease] = await store.claim_due_runs(owner="w", limit=1, shapes=SHAPES)
    return lease


async def work(store: RunStore, claude: ScriptedClaude) -> None:
    """One claim of the run, from lease to ending."""
    executor = executor_of(store, claude)
    lease = await claim(store)
    await executor.record(lease, await executor.execute(lease))


async def test_a_dead_process_costs_only_the_calls_that_were_under_way(
    open_store: StoreFactory, api_key: ApiKey
) -> None:
    """Three of five were answered when it died: the next one asks two, and the doubt is counted."""
    dying, store = open_store(), open_store()
    run = await accept(dying, api_key)
    first = StoppingClaude(silent=(1, 3))
    lease = await claim(dying)
    execution = asyncio.create_task(executor_of(dying, first).execute(lease))
    while (await store.get_run(api_key.id, run.id)).cost_usd < 3 * COST:
        await asyncio.sleep(0.02)
    execution.cancel()
    await asyncio.wait({execution})
    assert await store.bury_process("w", culprit=None) == 1

    second = StoppingClaude()
    await work(store, second)

    ended = await store.get_run(api_key.id, run.id)
    assert (first.numbers, second.numbers) == ([0, 1, 2, 3, 4], [1, 3])
    assert (ended.state, ended.output) == (RunState.SUCCEEDED, {"answers": CALLS})
    assert (ended.cost_usd, ended.reserved_usd, ended.doubtful_usd) == (5 * COST, 0, 2 * WORST)


async def test_a_failed_call_costs_its_neighbours_nothing(store: RunStore, api_key: ApiKey) -> None:
    """The retry asks only what failed."""
    run = await accept(store, api_key)
    first, second = StoppingClaude(failing=(4,)), StoppingClaude()

    await work(store, first)
    await work(store, second)

    ended = await store.get_run(api_key.id, run.id)
    assert (first.numbers, second.numbers) == ([0, 1, 2, 3, 4], [4])
    assert (ended.state, ended.cost_usd) == (RunState.SUCCEEDED, 5 * COST)


@pytest.mark.parametrize("budget", [COST / 2, 2 * COST, 4 * COST])
async def test_a_raised_budget_pays_only_for_what_is_missing(
    store: RunStore, api_key: ApiKey, budget: Decimal
) -> None:
    """The run stops before the call that it cannot pay, and goes on from there when it can."""
    run = await accept(store, api_key, budget_usd=budget)
    first, second = StoppingClaude(), StoppingClaude()

    await work(store, first)
    stopped = await store.get_run(api_key.id, run.id)
    await store.replay_run(
        api_key.id,
        run.id,
        step_names=CROWDED.step_names,
        from_step=None,
        input=None,
        budget_usd=5 * COST,
    )
    await work(store, second)

    ended = await store.get_run(api_key.id, run.id)
    assert stopped.failure is not None
    assert stopped.failure.reason is FailureReason.BUDGET_EXCEEDED
    assert (stopped.cost_usd, stopped.reserved_usd) == (len(first.asked) * COST, 0)
    assert stopped.cost_usd <= budget
    assert (ended.state, ended.cost_usd) == (RunState.SUCCEEDED, 5 * COST)
    assert sorted(first.numbers + second.numbers) == [0, 1, 2, 3, 4]
