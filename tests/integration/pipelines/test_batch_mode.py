"""Whole runs in batch mode: executor, record, courier, and the simulator's Message Batches API."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import pytest

from config.anthropic import AnthropicSettings
from services.core.claude.anthropic_claude import AnthropicClaude
from services.core.claude.message_batches import MessageBatches
from services.core.runs.message_batches import BatchLimits
from services.core.runs.models import ApiKey, NewRun, Run, shape_of
from services.core.runs.states import RunMode, RunState
from services.core.runs.store import RunStore
from services.pipelines.extract_records.pipeline import EXTRACT_RECORDS
from services.pipelines.summarize_documents.pipeline import SUMMARIZE_DOCUMENTS
from services.worker.admission import FreeAdmission
from services.worker.batch_courier import BatchCourier, Batching
from services.worker.executor import Limits, Outside, RunExecutor
from services.worker.retry import RetryPolicy
from tests.fakes.told_texts import ToldTexts
from tests.integration.claude.conftest import RunningSimulator

LIMITS = BatchLimits(max_calls=10_000, max_bytes=100_000_000, linger_s=0)
TOPICS = ("penstocks", "turbines", "weirs", "spillways")
PIPELINES = {each.name: each for each in (SUMMARIZE_DOCUMENTS, EXTRACT_RECORDS)}
RECORDS_OF_A_TEXT = {
    "schema": {
        "type": "object",
        "properties": {"name": {"type": "string"}, "height_m": {"type": "number"}},
        "required": ["name", "height_m"],
    },
    "texts": ["The penstock of Vianden falls 280 m. That of Goldisthal falls 302 m."],
}


class Hints:
    """Takes hints; this worker looks for itself."""

    def hint(self, run_id: UUID, *, is_isolated: bool = False) -> None:
        """Leave it."""


@dataclass
class Plant:
    """A worker in both modes."""

    store: RunStore
    key: ApiKey
    executor: RunExecutor
    courier: BatchCourier

    async def accept(self, mode: RunMode, number: int) -> UUID:
        """A run over four texts that no other run has."""
        texts = [{"text": f"Report {number} is about {topic}. Lunch was late."} for topic in TOPICS]
        return await self.accept_run(
            mode, SUMMARIZE_DOCUMENTS.name, {"documents": texts, "length": "short"}
        )

    async def accept_run(self, mode: RunMode, pipeline: str, run_input: dict[str, Any]) -> UUID:
        """A run of one of the pipelines."""
        steps = tuple(PIPELINES[pipeline].step_names)
        run, _ = await self.store.accept_run(
            NewRun(self.key.id, pipeline, run_input, steps, mode=mode)
        )
        return run.id

    async def work(self) -> None:
        """Do what worker, beat and isolated worker do in one round."""
        shapes = [shape_of(each.name, each.step_names) for each in PIPELINES.values()]
        leases = await self.store.claim_due_runs(owner="test", limit=50, shapes=shapes)
        for lease in leases:
            await self.executor.record(lease, await self.executor.execute(lease))
        await self.courier.submit()
        await self.courier.poll()

    async def finish(self, *runs: UUID) -> list[Run]:
        """The runs, once all have ended."""
        async with asyncio.timeout(60):
            while True:
                found = [await self.store.get_run(self.key.id, run) for run in runs]
                if all(run.finished_at for run in found):
                    return found
                await self.work()
                await asyncio.sleep(0.05)


@pytest.fixture
async def plant(
    store: RunStore, api_key: ApiKey, claude: AnthropicClaude, simulator: RunningSimulator
) -> AsyncIterator[Plant]:
    """A plant whose Claude takes a moment for a message batch."""
    simulator.http.put("/admin/batches", json={"seconds": 0.1}).raise_for_status()
    executor = RunExecutor(
        store,
        Outside(claude, web=None, arxiv_url=""),
        admits=FreeAdmission(),
        pipelines=PIPELINES,
        texts=ToldTexts(),  # type: ignore[arg-type]  # has what is needed
        retry_policy=RetryPolicy(5, backoff_s=0.01, backoff_max_s=0.1),
        limits=Limits(step_s=60, run_s=3600),
    )
    batches = MessageBatches(AnthropicSettings(simulator_url=simulator.url))
    batching = Batching(batches, LIMITS, doubt_s=0.1)
    yield Plant(store, api_key, executor, BatchCourier(store, batching, Hints()))
    await batches.aclose()
    simulator.http.put("/admin/batches", json={}).raise_for_status()


async def test_a_run_in_batch_mode_costs_half(plant: Plant, simulator: RunningSimulator) -> None:
    """The same tokens for half the money, in the record and in the simulator's own count."""
    [live] = await plant.finish(await plant.accept(RunMode.LIVE, 10))
    [batched] = await plant.finish(await plant.accept(RunMode.BATCH, 20))

    assert (RunState.SUCCEEDED, RunState.SUCCEEDED) == (live.state, batched.state)
    assert live.usage == batched.usage
    assert live.cost_usd == 2 * batched.cost_usd > 0
    assert batched.output is not None
    assert batched.output["simulated"]
    assert [0, 0] == [live.reserved_usd, batched.reserved_usd]
    assert live.cost_usd + batched.cost_usd == (await _spent(plant))
    assert {"live": _tokens(live), "batch": _tokens(batched)} == _charged(simulator)


async def test_runs_share_message_batches_and_survive_what_goes_wrong(
    plant: Plant, simulator: RunningSimulator
) -> None:
    """Shuffled results, a third of them failed or expired, answers that are lost: each is paid for once."""
    rules = {"seconds": 0.1, "errored_rate": 0.15, "expired_rate": 0.15, "seed": 3}
    simulator.http.put("/admin/batches", json=rules).raise_for_status()
    for fault, place in (
        ("drop", "batch_create"),
        ("bad_gateway", "batch_create"),
        ("drop", "batch_results"),
        ("truncated_stream", "batch_results"),
    ):
        simulator.fail(fault, place=place, count=1)
    runs = [await plant.accept(RunMode.BATCH, number) for number in range(30, 38)]

    ended = await plant.finish(*runs)

    assert {RunState.SUCCEEDED} == {run.state for run in ended}
    assert max(_sizes(simulator)) >= len(runs)
    assert {"batch": sum(map(_tokens, ended))} == _charged(simulator)
    day = await plant.store.get_key_day(plant.key.id)
    assert (sum(run.cost_usd for run in ended), 0, 0) == (
        day.cost_usd,
        day.reserved_usd,
        day.doubtful_usd,
    )


async def test_an_answer_that_is_cut_off_goes_on_in_the_next_message_batch(
    plant: Plant, simulator: RunningSimulator
) -> None:
    """Each part is a call of its own, paid for once; together they are the answer of one call."""
    whole = await plant.accept_run(RunMode.BATCH, EXTRACT_RECORDS.name, RECORDS_OF_A_TEXT)
    [uncut] = await plant.finish(whole)
    batches_before = len(_sizes(simulator))
    simulator.fail("max_tokens", place="batch_request", count=2)

    cut = await plant.accept_run(RunMode.BATCH, EXTRACT_RECORDS.name, RECORDS_OF_A_TEXT)
    [run] = await plant.finish(cut)

    assert RunState.SUCCEEDED is run.state
    assert run.output == uncut.output
    assert 3 == len(_sizes(simulator)) - batches_before
    assert {"batch": _tokens(uncut) + _tokens(run)} == _charged(simulator)
    assert run.cost_usd + uncut.cost_usd == await _spent(plant)
    assert 0 == run.reserved_usd


async def _spent(plant: Plant) -> Any:
    return (await plant.store.get_key_day(plant.key.id)).cost_usd


def _sizes(simulator: RunningSimulator) -> list[int]:
    """Requests in the simulator's message batches, the newest first."""
    batches = simulator.http.get("/admin/batches").json()["batches"]
    return [sum(batch["request_counts"].values()) for batch in batches]


def _tokens(run: Run) -> int:
    return run.usage.input_tokens + run.usage.output_tokens


def _charged(simulator: RunningSimulator) -> dict[str, int]:
    """Tokens that the simulator has charged, by kind."""
    total = simulator.http.get("/admin/usage").json()["total"]
    return {
        kind: used["input_tokens"] + used["output_tokens"]
        for kind, used in total.items()
        if used["input_tokens"] + used["output_tokens"]
    }
