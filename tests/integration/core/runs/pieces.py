"""What tests of the record are made of."""

from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import text

from config.postgres import PostgresSettings
from services.core.runs.models import ApiKey, CallOpening, Event, Lease, NewRun, Run, shape_of
from services.core.runs.store import RunStore
from services.core.usage import Usage
from services.migrate.engine import create_engine

STEPS = ("parse", "research", "compose")
SHAPES = tuple(shape_of(pipeline, STEPS) for pipeline in ("outreach_email", "a", "b"))
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


async def accept(store: RunStore, api_key: ApiKey, **fields: Any) -> Run:
    """Accept a run."""
    run, _ = await store.accept_run(new_run(api_key, **fields))
    return run


async def claim(store: RunStore) -> Lease:
    """Take the one run that is due."""
    [lease] = await store.claim_due_runs(owner="w1", limit=10, shapes=SHAPES)
    return lease


async def begin_step(store: RunStore, lease: Lease, step: str) -> int:
    """Have a step started, if the claim has not done so; the number of the try."""
    first_open = next(name for name in STEPS if name not in lease.checkpoints)
    if step == first_open and lease.started_attempt is not None:
        return lease.started_attempt
    return await store.start_step(lease, step)


def opening(step: str = "parse", question: bytes = b"?", **fields: Any) -> CallOpening:
    """A call that a step might make; at worst it costs twice COST."""
    usual: dict[str, Any] = {"number": 0, "model": "claude-test", "worst_usd": 2 * COST}
    return CallOpening(step=step, question=question, **(usual | fields))


async def settle(
    store: RunStore, lease: Lease, call: CallOpening, reservation: UUID, **fields: Any
) -> None:
    """Let a call end: with an answer, for COST."""
    usual: dict[str, Any] = {"usage": USAGE, "cost_usd": COST, "answer": {"said": "yes"}}
    name = (lease.run_id, call.step, call.question, call.number, reservation)
    await store.settle_call(*name, **(usual | fields))


async def pay(store: RunStore, lease: Lease, step: str) -> None:
    """Have a step ask Claude for COST something that no other call asks."""
    call = opening(step, uuid4().bytes)
    opened = await store.open_call(lease, call)
    await settle(store, lease, call, opened.reservation)


async def events_of(store: RunStore, run: Run) -> list[Event]:
    """What was told about a run; its seq must have no gaps."""
    events = await store.list_events({run.id: 0})
    assert list(range(1, len(events) + 1)) == [event.seq for event in events]
    return events


async def run_sql(database: PostgresSettings, *statements: str) -> None:
    """Change the record behind the store's back, as only time or another release would."""
    engine = create_engine(database.model_copy(update={"statement_timeout_s": 60}))
    async with engine.begin() as connection:
        for statement in statements:
            await connection.execute(text(statement))
    await engine.dispose()
