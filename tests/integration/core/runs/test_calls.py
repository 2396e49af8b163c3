"""Calls in the record: reserved before, settled once, never paid for twice."""

import asyncio
from datetime import datetime
from decimal import Decimal
from uuid import uuid4

import pytest

from config.postgres import PostgresSettings
from services.core.errors import BudgetBusyError, BudgetExceededError, LeaseLostError
from services.core.runs.models import (
    ApiKey,
    CallOpening,
    Checkpoint,
    Failure,
    Lease,
    PastCall,
    Run,
)
from services.core.runs.states import CallState, EventType, FailureReason, RunMode, RunState
from services.core.runs.store import RunStore
from services.core.usage import Usage
from tests.integration.conftest import StoreFactory
from tests.integration.core.runs.pieces import (
    COST,
    SHAPES,
    STEPS,
    USAGE,
    accept,
    claim,
    events_of,
    opening,
    run_sql,
    settle,
)

ANSWER = {"said": "yes"}
WORST = 2 * COST
NOTHING = Decimal(0)


async def owed(store: RunStore, run: Run) -> tuple[Decimal, Decimal, Decimal]:
    """A run's cost, and what is reserved and doubtful; the key's day has the same sums."""
    read = await store.get_run(run.key_id, run.id)
    day = await store.get_key_day(run.key_id)
    sums = (read.cost_usd, read.reserved_usd, read.doubtful_usd)
    assert sums == (day.cost_usd, day.reserved_usd, day.doubtful_usd)
    assert (read.usage, read.cost_usd) == (day.usage, sum(s.cost_usd for s in read.steps))
    return sums


async def lose(store: RunStore, lease: Lease) -> Lease:
    """Let the holder die, and another take the run."""
    await store.release_run(lease)
    return await claim(store)


async def test_a_call_is_reserved_and_then_paid(store: RunStore, api_key: ApiKey) -> None:
    """What it can cost counts while it is under way; then what it cost, in run, step and day."""
    run = await accept(store, api_key)
    lease = await claim(store)

    opened = await store.open_call(lease, opening())
    assert (NOTHING, WORST, NOTHING) == await owed(store, run)
    await settle(store, lease, opening(), opened.reservation)

    assert (COST, NOTHING, NOTHING) == await owed(store, run)
    assert (await store.get_key_day(api_key.id)).usage == USAGE


async def test_an_answer_is_there_for_the_next_holder(store: RunStore, api_key: ApiKey) -> None:
    """A crash after the answer costs nothing: it comes with the lease, until the checkpoint."""
    await accept(store, api_key)
    lease = await claim(store)
    call = opening()
    opened = await store.open_call(lease, call)
    await settle(store, lease, call, opened.reservation)

    lease = await lose(store, lease)
    past = PastCall("parse", b"?", 0, CallState.ANSWERED, ANSWER, opened.reservation)
    assert lease.calls == (past,)

    again = await store.open_call(lease, opening())
    assert (again.reservation, again.answer) == (opened.reservation, ANSWER)
    await store.record_checkpoint(lease, Checkpoint("parse", {}))
    assert (await lose(store, lease)).calls == ()


async def test_a_call_is_settled_once(store: RunStore, api_key: ApiKey) -> None:
    """Told again after an outage, nothing is counted twice and the first answer stays."""
    run = await accept(store, api_key)
    lease = await claim(store)
    opened = await store.open_call(lease, opening())

    for answer in (ANSWER, {"said": "no"}):
        await settle(store, lease, opening(), opened.reservation, answer=answer)
    both = (settle(store, lease, opening(), opened.reservation) for _ in range(2))
    await asyncio.gather(*both)

    assert (COST, NOTHING, NOTHING) == await owed(store, run)
    assert (await lose(store, lease)).calls[0].answer == ANSWER


async def test_the_same_opening_again_is_one_call(store: RunStore, api_key: ApiKey) -> None:
    """After an outage nobody knows whether it was committed: asking again reserves nothing more."""
    run = await accept(store, api_key)
    lease = await claim(store)
    call = opening()

    assert await store.open_call(lease, call) == await store.open_call(lease, call)

    assert (NOTHING, WORST, NOTHING) == await owed(store, run)


async def test_a_call_whose_process_died_is_in_doubt_for_ever(
    store: RunStore, api_key: ApiKey
) -> None:
    """Claude may have answered it: it counts in full, beside the one that is made in its place."""
    run = await accept(store, api_key)
    lease = await claim(store)
    await store.open_call(lease, opening())
    lease = await lose(store, lease)
    assert lease.calls[0].state is CallState.OPEN

    again = await store.open_call(lease, opening())
    assert (NOTHING, WORST, WORST) == await owed(store, run)
    await settle(store, lease, opening(), again.reservation)
    assert (COST, NOTHING, WORST) == await owed(store, run)


async def test_a_late_end_turns_doubt_into_cost(store: RunStore, api_key: ApiKey) -> None:
    """A holder that was only slow tells what it paid; its successor's call is another one."""
    run = await accept(store, api_key)
    slow = await claim(store)
    first = await store.open_call(slow, opening())
    lease = await lose(store, slow)
    second = await store.open_call(lease, opening())

    for _ in range(2):
        await settle(store, slow, opening(), first.reservation, answer={"said": "late"})
    assert (COST, WORST, NOTHING) == await owed(store, run)
    await settle(store, lease, opening(), second.reservation)

    assert (2 * COST, NOTHING, NOTHING) == await owed(store, run)
    assert (await lose(store, lease)).calls[0].answer == ANSWER


async def test_a_lost_lease_loses_neither_answer_nor_cost(store: RunStore, api_key: ApiKey) -> None:
    """The money is spent: settling needs no lease, and the next holder need not ask."""
    run = await accept(store, api_key)
    slow = await claim(store)
    opened = await store.open_call(slow, opening())
    lease = await lose(store, slow)

    await settle(store, slow, opening(), opened.reservation)

    assert (await store.open_call(lease, opening())).answer == ANSWER
    assert (COST, NOTHING, NOTHING) == await owed(store, run)
    with pytest.raises(LeaseLostError):
        await store.open_call(slow, opening(question=b"another"))


@pytest.mark.parametrize("end", ["fail", "cancel", "time out"])
async def test_an_ended_run_still_pays(
    store: RunStore, api_key: ApiKey, fresh_database: PostgresSettings, end: str
) -> None:
    """What is under way when a run ends is in doubt until its end is known: it holds nobody up."""
    run = await accept(store, api_key)
    lease = await claim(store)
    opened = await store.open_call(lease, opening())
    if end == "fail":
        await store.fail_run(lease, Failure(FailureReason.PERMANENT, "parse", "no", 1))
    elif end == "cancel":
        await store.cancel_run(api_key.id, run.id)
    else:
        await run_sql(fresh_database, "UPDATE runs SET deadline_at = now() - interval '1 s'")
        await store.bury_process("w1", culprit=None)

    assert (await store.get_run(api_key.id, run.id)).finished_at is not None
    assert (NOTHING, NOTHING, WORST) == await owed(store, run)
    await settle(store, lease, opening(), opened.reservation)
    assert (COST, NOTHING, NOTHING) == await owed(store, run)


async def test_a_checkpoint_ends_what_nobody_waits_for(store: RunStore, api_key: ApiKey) -> None:
    """A call that is open when its step is done is in doubt, until its end comes late."""
    run = await accept(store, api_key)
    lease = await claim(store)
    opened = await store.open_call(lease, opening())

    await store.record_checkpoint(lease, Checkpoint("parse", {}))
    assert (NOTHING, NOTHING, WORST) == await owed(store, run)
    await settle(store, lease, opening(), opened.reservation)

    assert (COST, NOTHING, NOTHING) == await owed(store, run)


async def test_a_call_whose_end_nobody_saw_may_have_cost_more(
    store: RunStore, api_key: ApiKey
) -> None:
    """What Claude reported before the connection broke is cost, the rest of the worst case is in doubt."""
    run = await accept(store, api_key)
    lease = await claim(store)
    opened = await store.open_call(lease, opening())

    broken = {"answer": None, "is_failed": True, "is_doubtful": True}
    await settle(store, lease, opening(), opened.reservation, **broken)

    assert (COST, NOTHING, WORST - COST) == await owed(store, run)
    await store.open_call(lease, opening())
    assert (COST, WORST, WORST - COST) == await owed(store, run)


async def test_failed_calls_and_bad_answers_are_asked_again(
    store: RunStore, api_key: ApiKey
) -> None:
    """A retry forgets what failed, and what it is told; the other answers stay."""
    await accept(store, api_key)
    lease = await claim(store)
    for question in (b"good", b"bad", b"failed"):
        call = opening(question=question)
        opened = await store.open_call(lease, call)
        ended = {"answer": None, "is_failed": True} if question == b"failed" else {}
        await settle(store, lease, call, opened.reservation, **ended)

    await store.retry_run(lease, step="parse", error="x", delay_s=0, forgotten=(b"bad",))
    lease = await claim(store)
    assert [call.question for call in lease.calls] == [b"good"]
    await store.retry_run(lease, step="parse", error="x", delay_s=0, forgotten=None)
    assert (await claim(store)).calls == ()


async def test_a_replay_uses_the_answers_that_are_there(store: RunStore, api_key: ApiKey) -> None:
    """Raising the budget pays for no answer twice; beginning with a step anew does."""
    run = await accept(store, api_key)
    lease = await claim(store)
    opened = await store.open_call(lease, opening())
    await settle(store, lease, opening(), opened.reservation)
    failure = Failure(FailureReason.BUDGET_EXCEEDED, "parse", "no money", 1)
    await store.fail_run(lease, failure)

    replayed = await store.replay_run(
        api_key.id,
        run.id,
        step_names=STEPS,
        from_step=None,
        input=None,
        budget_usd=Decimal(7),
    )
    lease = await claim(store)
    assert replayed.budget_usd == lease.budget_usd == 7
    assert [call.answer for call in lease.calls] == [ANSWER]

    await store.open_call(lease, opening(question=b"open"))
    await store.fail_run(lease, failure)
    again = await store.replay_run(
        api_key.id, run.id, step_names=STEPS, from_step="parse", input=None
    )
    assert again.budget_usd == 7
    assert (await claim(store)).calls == ()
    assert (COST, NOTHING, WORST) == await owed(store, run)


async def test_a_parked_run_waits_without_a_try(store: RunStore, api_key: ApiKey) -> None:
    """It holds no slot, is due when told, and its step has not been tried."""
    run = await accept(store, api_key)
    lease = await claim(store)

    await store.park_run(lease, step="parse", wait_s=60, reason="rate_limit")

    parked = await store.get_run(api_key.id, run.id)
    told = (await events_of(store, run))[-1]
    assert parked.state is RunState.QUEUED
    assert parked.next_at is not None
    assert (parked.steps[0].state, parked.steps[0].attempts) == ("pending", 0)
    assert told.type is EventType.STEP_WAITING
    assert {"step": "parse", "reason": "rate_limit"}.items() <= told.data.items()
    assert datetime.fromisoformat(told.data["next_at"]) == parked.next_at
    assert 59 < (parked.next_at - told.at).total_seconds() < 61
    assert await store.take_due_hints() == []


def in_batch(question: bytes) -> CallOpening:
    """A call for a message batch."""
    return opening(question=question, request={"max_tokens": 5}, is_batch=True)


async def test_the_last_result_of_a_message_batch_makes_a_run_due(
    store: RunStore, api_key: ApiKey
) -> None:
    """It waits for hours without a slot, and goes on as soon as it can go on for good."""
    run = await accept(store, api_key, mode=RunMode.BATCH)
    lease = await claim(store)
    calls = [in_batch(b"one"), in_batch(b"two")]
    opened = [await store.open_call(lease, call) for call in calls]
    await store.park_run(lease, step="parse", wait_s=3600, reason="batch")

    await settle(store, lease, calls[0], opened[0].reservation)
    assert await store.claim_due_runs(owner="w", limit=1, shapes=SHAPES) == []
    await settle(store, lease, calls[1], opened[1].reservation)
    [hint] = await store.take_due_hints()
    lease = await claim(store)

    assert (lease.mode, hint.run_id) == (RunMode.BATCH, run.id)
    assert {call.state for call in lease.calls} == {CallState.ANSWERED}
    assert 24 * 3600 < lease.remaining_s


async def test_what_a_message_batch_will_answer_is_not_forgotten(
    store: RunStore, api_key: ApiKey
) -> None:
    """A try that fails of one answer leaves the others on their way: they are paid for."""
    run = await accept(store, api_key, mode=RunMode.BATCH)
    lease = await claim(store)
    calls = [in_batch(b"here"), in_batch(b"on its way")]
    opened = [await store.open_call(lease, call) for call in calls]
    await settle(store, lease, calls[0], opened[0].reservation)

    await store.retry_run(lease, step="parse", error="x", delay_s=0, forgotten=None)

    assert [call.question for call in (await claim(store)).calls] == [b"on its way"]
    assert (COST, WORST, NOTHING) == await owed(store, run)


async def test_a_call_that_was_never_sent_is_not_in_doubt(store: RunStore, api_key: ApiKey) -> None:
    """It waits for its message batch when its run is cancelled and begins anew: it has cost nothing."""
    run = await accept(store, api_key, mode=RunMode.BATCH)
    lease = await claim(store)
    await store.open_call(lease, in_batch(b"waiting"))
    await store.park_run(lease, step="parse", wait_s=3600, reason="batch")
    await store.cancel_run(api_key.id, run.id)
    assert (NOTHING, WORST, NOTHING) == await owed(store, run)

    await store.replay_run(api_key.id, run.id, step_names=STEPS, from_step="parse", input=None)

    assert (await claim(store)).calls == ()
    assert (NOTHING, NOTHING, NOTHING) == await owed(store, run)


async def test_results_that_come_while_a_run_is_being_parked_are_not_missed(
    open_store: StoreFactory, api_key: ApiKey
) -> None:
    """Whoever is first, the run is due at once and not in an hour."""
    one, other = open_store(), open_store()
    for number in range(20):
        run = await accept(one, api_key, mode=RunMode.BATCH)
        lease = await claim(one)
        calls = [in_batch(bytes([number, place])) for place in range(2)]
        opened = [await one.open_call(lease, call) for call in calls]

        await asyncio.gather(
            one.park_run(lease, step="parse", wait_s=3600, reason="batch"),
            settle(one, lease, calls[0], opened[0].reservation),
            settle(other, lease, calls[1], opened[1].reservation),
        )

        assert (await claim(one)).run_id == run.id


# --- budgets ----------------------------------------------------------------------------------


async def test_a_run_stops_before_the_call_that_could_exceed_its_budget(
    store: RunStore, api_key: ApiKey
) -> None:
    """To the last fraction of a cent; what is under way may make room, what is spent may not."""
    await accept(store, api_key, budget_usd=2 * WORST)
    lease = await claim(store)
    first = await store.open_call(lease, opening(question=b"1"))
    await store.open_call(lease, opening(question=b"2"))

    with pytest.raises(BudgetBusyError) as busy:
        await store.open_call(lease, opening(question=b"3"))
    assert busy.value.scope == "run"
    await settle(store, lease, opening(question=b"1"), first.reservation)
    with pytest.raises(BudgetExceededError, match="run's budget"):
        await store.open_call(lease, opening(question=b"3", worst_usd=2 * WORST))

    fits = opening(question=b"3", worst_usd=WORST - COST)
    await store.open_call(lease, fits)


async def test_a_dead_process_leaves_its_run_less_to_spend(
    store: RunStore, api_key: ApiKey
) -> None:
    """What may have been spent is not spent again: the budget holds whatever has happened."""
    await accept(store, api_key, budget_usd=2 * WORST)
    lease = await claim(store)
    for _ in range(2):
        await store.open_call(lease, opening())
        lease = await lose(store, lease)

    with pytest.raises(BudgetExceededError):
        await store.open_call(lease, opening())


async def test_a_keys_day_is_a_budget_of_all_its_runs(store: RunStore, api_key: ApiKey) -> None:
    """A limit that is set counts at once, for calls of every run."""
    await store.set_key_limits(api_key.prefix, daily_budget_usd=WORST, max_running=None)
    for _ in range(2):
        await accept(store, api_key)
    one, other = await store.claim_due_runs(owner="w", limit=2, shapes=SHAPES)
    await store.open_call(one, opening())

    with pytest.raises(BudgetBusyError) as busy:
        await store.open_call(other, opening())

    assert busy.value.scope == "key"
    await store.set_key_limits(api_key.prefix, daily_budget_usd=None, max_running=None)
    await store.open_call(other, opening())


async def test_runs_do_not_wait_for_each_others_dead_calls(
    store: RunStore, api_key: ApiKey
) -> None:
    """Each has left a call that nobody sees the end of; the second to ask knows that no money is left."""
    budget_usd = 5 * WORST / 2
    await store.set_key_limits(api_key.prefix, daily_budget_usd=budget_usd, max_running=None)
    for _ in range(2):
        await accept(store, api_key)
    leases = await store.claim_due_runs(owner="w", limit=2, shapes=SHAPES)
    for lease in leases:
        await store.open_call(lease, opening())
        await store.release_run(lease)

    one, other = await store.claim_due_runs(owner="w", limit=2, shapes=SHAPES)
    with pytest.raises(BudgetBusyError):
        await store.open_call(one, opening())
    with pytest.raises(BudgetExceededError):
        await store.open_call(other, opening())

    day = await store.get_key_day(api_key.id)
    assert (day.cost_usd, day.reserved_usd, day.doubtful_usd) == (0, 0, 2 * WORST)


async def test_a_refused_call_has_its_late_end_as_well(store: RunStore, api_key: ApiKey) -> None:
    """What it cost takes the place of the doubt, and the money that it did not need is there again."""
    run = await accept(store, api_key)
    await store.set_key_limits(api_key.prefix, daily_budget_usd=3 * WORST / 2, max_running=None)
    slow = await claim(store)
    first = await store.open_call(slow, opening())
    lease = await lose(store, slow)
    with pytest.raises(BudgetExceededError):
        await store.open_call(lease, opening())
    assert (NOTHING, NOTHING, WORST) == await owed(store, run)

    await settle(store, slow, opening(), first.reservation)

    assert (COST, NOTHING, NOTHING) == await owed(store, run)
    await store.open_call(lease, opening())


async def begin_a_day(database: PostgresSettings) -> None:
    """Midnight (UTC) passes."""
    await run_sql(
        database, "UPDATE key_days SET day = day - 1", "UPDATE claude_calls SET day = day - 1"
    )


async def test_a_call_is_paid_by_the_day_that_it_was_opened_on(
    store: RunStore, api_key: ApiKey, fresh_database: PostgresSettings
) -> None:
    """Each day has its own budget; what ends after midnight costs the day before nothing more than reserved."""
    await store.set_key_limits(api_key.prefix, daily_budget_usd=WORST, max_running=None)
    run = await accept(store, api_key)
    lease = await claim(store)
    opened = await store.open_call(lease, opening())
    await begin_a_day(fresh_database)

    await store.open_call(lease, opening(question=b"today"))
    await settle(store, lease, opening(), opened.reservation)

    today = await store.get_key_day(api_key.id)
    assert (today.cost_usd, today.reserved_usd, today.doubtful_usd) == (0, WORST, 0)
    assert (await store.get_run(api_key.id, run.id)).cost_usd == COST


async def test_doubt_stays_with_its_day(
    store: RunStore, api_key: ApiKey, fresh_database: PostgresSettings
) -> None:
    """A call of yesterday that is made again today takes of today's budget only once."""
    await store.set_key_limits(api_key.prefix, daily_budget_usd=WORST, max_running=None)
    run = await accept(store, api_key)
    lease = await claim(store)
    await store.open_call(lease, opening())
    await begin_a_day(fresh_database)

    await store.open_call(lease, opening())

    today = await store.get_key_day(api_key.id)
    read = await store.get_run(api_key.id, run.id)
    assert (today.cost_usd, today.reserved_usd, today.doubtful_usd) == (0, WORST, 0)
    assert (read.reserved_usd, read.doubtful_usd) == (WORST, WORST)


async def test_many_calls_of_one_run_share_a_batch(store: RunStore, api_key: ApiKey) -> None:
    """Calls at once are judged one after the other, as if each came alone."""
    run = await accept(store, api_key, budget_usd=5 * WORST)
    lease = await claim(store)
    calls = [opening(question=bytes([number])) for number in range(20)]

    verdicts = await asyncio.gather(
        *(store.open_call(lease, call) for call in calls), return_exceptions=True
    )

    assert [type(v) for v in verdicts[5:]] == [BudgetBusyError] * 15
    assert (NOTHING, 5 * WORST, NOTHING) == await owed(store, run)


async def test_a_call_of_nobody_is_no_call(store: RunStore, api_key: ApiKey) -> None:
    """A settlement for a call that is not there changes nothing."""
    run = await accept(store, api_key)
    lease = await claim(store)

    await settle(store, lease, opening(), uuid4(), usage=Usage(1, 1))

    assert (NOTHING, NOTHING, NOTHING) == await owed(store, run)
