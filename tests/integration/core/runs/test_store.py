"""The life of a run in the record."""

from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from uuid_utils.compat import uuid7

from services.core.errors import (
    IdempotencyConflictError,
    LeaseLostError,
    QueueFullError,
    RunNotCancellableError,
    RunNotFoundError,
)
from services.core.runs.models import ApiKey, Checkpoint, Failure, Lease, NewEmail, NewRun, Run
from services.core.runs.states import EventType, FailureReason, RunState, StepState
from services.core.runs.store import RunStore
from services.core.usage import Usage
from tests.integration.conftest import StoreFactory

STEPS = ("parse", "research", "compose")
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
USAGE = Usage(input_tokens=100, output_tokens=20, cache_read_input_tokens=3)
COST = Decimal("0.00042")


def new_run(api_key: ApiKey, **fields: Any) -> NewRun:
    """A run that a client might ask for."""
    usual: dict[str, Any] = {
        "key_id": api_key.id,
        "pipeline": "outreach_email",
        "input": {"template": "Hello {{name}} ✉", "recipient": {"name": "Ada"}},
        "step_names": STEPS,
        "metadata": {"campaign": "spring"},
        "budget_usd": Decimal("0.5"),
        "traceparent": TRACEPARENT,
    }
    return NewRun(**(usual | fields))


async def claim(store: RunStore) -> Lease:
    """Take the one run that is due."""
    [lease] = await store.claim_due_runs(owner="w1", limit=10)
    return lease


async def accept(store: RunStore, api_key: ApiKey, **fields: Any) -> Run:
    """Accept a run."""
    run, _ = await store.accept_run(new_run(api_key, **fields))
    return run


async def event_types(store: RunStore, run: Run) -> list[EventType]:
    """What was told about a run; its seq must have no gaps."""
    events = await store.list_events({run.id: 0})
    assert list(range(1, len(events) + 1)) == [event.seq for event in events]
    return [event.type for event in events]


async def test_accept_run_gives_what_a_reader_sees(store: RunStore, api_key: ApiKey) -> None:
    """The answer to a POST and a later GET agree to the last field."""
    run, is_new = await store.accept_run(new_run(api_key))

    assert is_new
    assert run == await store.get_run(api_key.id, run.id)
    assert run.state is RunState.QUEUED
    assert run.trace_id == "0af7651916cd43dd8448eb211c80319c"
    assert list(STEPS) == [step.name for step in run.steps]
    assert [EventType.RUN_QUEUED] == await event_types(store, run)


async def test_a_run_goes_from_acceptance_to_success(store: RunStore, api_key: ApiKey) -> None:
    """Checkpoints, usage, output, email and events of a whole life are there to read."""
    run = await accept(store, api_key)
    lease = await claim(store)
    for name in STEPS:
        assert await store.start_step(lease, name) == 1
        await store.record_text(lease, name, "Dear")
        await store.record_checkpoint(lease, Checkpoint(name, {"of": name}, USAGE, COST))
    email = NewEmail(uuid7(), "research", "Hello", "Dear Ada", {"campaign": "spring"})
    await store.finish_run(lease, {"subject": "Hello"}, email)

    done = await store.get_run(api_key.id, run.id)
    assert done.state is RunState.SUCCEEDED
    assert done.output == {"subject": "Hello"}
    assert done.usage == USAGE + USAGE + USAGE
    assert done.cost_usd == 3 * COST
    assert [{"of": name} for name in STEPS] == [step.output for step in done.steps]
    assert all(step.state is StepState.SUCCEEDED for step in done.steps)
    assert done.next_at is None
    assert done.started_at is not None
    assert done.finished_at is not None
    assert done.created_at <= done.started_at <= done.finished_at
    stored = await store.get_email(api_key.id, email.id)
    assert (run.id, "Dear Ada") == (stored.run_id, stored.body)
    of_step = [EventType.STEP_STARTED, EventType.CLAUDE_DELTA, EventType.STEP_SUCCEEDED]
    expected = [EventType.RUN_QUEUED, EventType.RUN_STARTED, *of_step * 3, EventType.RUN_SUCCEEDED]
    assert expected == await event_types(store, run)
