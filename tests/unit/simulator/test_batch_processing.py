"""services.simulator.batch_processing: how far a batch is when it is cancelled, and what is charged."""

import json
from datetime import timedelta

import pytest

from config.simulator import SimulatorSettings
from services.core.clock import utc_now
from services.simulator.batch_processing import process_batch
from services.simulator.batches import Batch, BatchBoard, BatchBody, BatchRules, ResultType
from services.simulator.faults import FaultBoard
from services.simulator.ledger import Ledger
from services.simulator.limits import LimitBoard, Limits
from services.simulator.state import State

PARAMS = {
    "model": "claude-sonnet-5-5",
    "max_tokens": 100,
    "messages": [{"role": "user", "content": "The harbour freezes in January."}],
    "metadata": {"user_id": "run-1"},
}


@pytest.fixture
def state() -> State:
    """A simulator whose batches take 100 seconds, and whose limits let one live call in."""
    return State(
        settings=SimulatorSettings(),
        faults=FaultBoard(),
        ledger=Ledger(max_requests=10),
        limits=LimitBoard(Limits(requests_per_min=1)),
        batches=BatchBoard(seconds=100),
    )


def batch_of(state: State, size: int) -> Batch:
    """A batch with so many requests."""
    requests = [{"custom_id": f"row-{number}", "params": PARAMS} for number in range(size)]
    return state.batches.add(BatchBody.model_validate({"requests": requests}).requests)


def results_of(batch: Batch) -> dict[str, str]:
    """What came of each request, by its custom_id."""
    lines = [json.loads(line) for line in batch.results]
    return {line["custom_id"]: line["result"]["type"] for line in lines}


async def test_a_cancelled_batch_keeps_what_was_done_by_then(state):
    """The first half after half the time; the rest is neither answered nor charged."""
    batch = batch_of(state, 10)
    batch.created_at = utc_now() - timedelta(seconds=55)
    batch.cancel_initiated_at = utc_now() - timedelta(seconds=1)

    await process_batch(batch, state)

    results = results_of(batch)
    assert ["succeeded"] * 5 + ["canceled"] * 5 == [results[f"row-{n}"] for n in range(10)]
    assert {ResultType.SUCCEEDED: 5, ResultType.CANCELED: 5} == batch.counts
    assert state.ledger.usage.totals()["batch"]["calls"] == 5
    (count,) = state.ledger.calls
    assert ("run-1", 5, 5) == (count.run_id, count.started, count.answered)


async def test_cancelling_does_not_prolong_a_batch(state):
    """One that was all but done ends with all that it has."""
    batch = batch_of(state, 3)
    batch.created_at = utc_now() - timedelta(seconds=101)
    batch.cancel_initiated_at = utc_now() - timedelta(seconds=0.5)

    await process_batch(batch, state)

    assert {"succeeded"} == set(results_of(batch).values())


async def test_batches_are_not_limited(state):
    """The API's limits for batches are others, and far away."""
    state.batches.put(BatchRules(seconds=0))
    batch = batch_of(state, 5)

    await process_batch(batch, state)

    assert {ResultType.SUCCEEDED: 5} == batch.counts
    assert {} == state.limits.state()["models"]
