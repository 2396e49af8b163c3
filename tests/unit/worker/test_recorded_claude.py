"""A step's calls: reserved before, settled after, read again instead of asked again."""

import asyncio
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any

import pytest
from anthropic.types import Message

from config.anthropic import AnthropicSettings
from services.core.claude.anthropic_claude import AnthropicClaude
from services.core.claude.kept import keep_answer
from services.core.claude.protocol import ClaudeRequest, Truncation
from services.core.errors import (
    BreakerOpenError,
    BudgetExceededError,
    CallParkedError,
    ClaudeError,
    ClaudeMalformedAnswerError,
    ClaudeNotConfiguredError,
    ClaudeOverloadedError,
    ClaudeRateLimitedError,
    ClaudeRejectedError,
    ClaudeTruncatedError,
    ClaudeUnavailableError,
    StepTransientError,
)
from services.core.runs.call_limiter import CallFault
from services.core.runs.states import CallState, RunMode
from services.core.usage import Usage
from services.worker.admission import Admits, FreeAdmission
from services.worker.call_book import CallBook
from services.worker.recorded_claude import RecordedClaude
from tests.fakes.memory_store import CallRow, MemoryRun, MemoryRunStore
from tests.fakes.tiny_pipeline import ScriptedClaude, Text

REQUEST = ClaudeRequest(system="", prompt="?")
OTHER = ClaudeRequest(system="", prompt="another?")
WORST, COST = Decimal("0.02"), Decimal("0.01")
ONE_CALL = Usage(input_tokens=10, output_tokens=5)


@dataclass
class Doorkeeper:
    """Admits all models but those that are closed; notes what it is told."""

    closed: dict[str, CallParkedError] = field(default_factory=dict)
    told: list[Any] = field(default_factory=list)

    async def admit(self, model: str, *, input_tokens: int, output_tokens: int) -> str:
        if model in self.closed:
            raise self.closed[model]
        return model

    async def note_answer(self, ticket: str, *, usage: Usage, seen: object) -> None:
        self.told.append((ticket, usage))

    async def note_error(self, ticket: str, fault: CallFault, **facts: object) -> None:
        self.told.append((ticket, fault))

    async def note_unmade(self, ticket: str) -> None:
        self.told.append((ticket, "unmade"))


async def begin(
    store: MemoryRunStore,
    run: MemoryRun,
    claude: ScriptedClaude,
    admits: Admits[Any] | None = None,
) -> tuple[RecordedClaude, CallBook]:
    """Claim the run and begin a try of its first step."""
    run.state = run.state.QUEUED
    (lease,) = await store.claim_due_runs(owner="me", limit=1)
    book = CallBook(store, lease, "ask")  # type: ignore[arg-type]  # has what is needed

    async def ignore(_: str) -> None:
        return

    recorded = RecordedClaude(
        claude,
        admits or FreeAdmission(),
        book,
        new_text=lambda: ignore,
        trace_key="run 1",
        mode=lease.mode,
    )
    return recorded, book


def row_of(run: MemoryRun) -> CallRow:
    """The run's only call."""
    [row] = run.calls.values()
    return row


def cut_off(text: str) -> Message:
    """An answer that reached max_tokens."""
    return Message.model_validate(
        {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "content": [{"type": "text", "text": text}],
            "model": "claude-sonnet-5-5",
            "stop_reason": "max_tokens",
            "usage": {"input_tokens": 10, "output_tokens": 20},
        }
    )


async def test_an_answer_is_kept_with_what_it_cost(
    store: MemoryRunStore, claude: ScriptedClaude
) -> None:
    """Each call of a try adds up; nothing stays reserved; the run can be found by its key."""
    run = store.add_run()
    recorded, book = await begin(store, run, claude)

    for request in (REQUEST, OTHER):
        reply = await recorded.ask(request, Text)
        assert reply.answer == Text(text="Dear Ada")

    assert (
        (run.usage, run.cost_usd) == (book.usage, book.cost_usd) == (ONE_CALL + ONE_CALL, 2 * COST)
    )
    assert run.purse.reserved_usd == 0
    assert {row.state for row in run.calls.values()} == {CallState.ANSWERED}
    assert claude.asked[0].trace_key == "run 1"


async def test_only_what_has_no_answer_is_asked_again(
    store: MemoryRunStore, claude: ScriptedClaude
) -> None:
    """The same question twice in a try is two calls, and the next try finds both."""
    run = store.add_run()
    recorded, _ = await begin(store, run, claude)
    await recorded.ask(REQUEST, Text)
    await recorded.ask(REQUEST, Text)

    again, book = await begin(store, run, claude)
    replies = [await again.ask(request, Text) for request in (REQUEST, OTHER, REQUEST, REQUEST)]

    assert len(claude.asked) == 4
    assert [reply.answer.text for reply in replies] == ["Dear Ada"] * 4
    assert book.cost_usd == 2 * COST
    assert run.cost_usd == 4 * COST


async def test_a_call_of_a_dead_process_is_made_again(
    store: MemoryRunStore, claude: ScriptedClaude
) -> None:
    """Nobody knows its answer; what it may have cost stays in doubt."""
    run = store.add_run()
    recorded, _ = await begin(store, run, claude)
    claude.before_answer = asyncio.Event().wait
    dying = asyncio.create_task(recorded.ask(REQUEST, Text))
    await asyncio.sleep(0.01)
    dying.cancel()
    await asyncio.wait({dying})
    assert row_of(run).state is CallState.OPEN

    claude.before_answer = None
    again, _ = await begin(store, run, claude)
    await again.ask(REQUEST, Text)

    assert (run.cost_usd, run.purse.doubtful_usd, run.purse.reserved_usd) == (COST, WORST, 0)


async def test_an_answer_that_is_paid_for_is_kept_when_the_try_is_cancelled(
    store: MemoryRunStore, claude: ScriptedClaude
) -> None:
    """A worker that stops between answer and record has it written all the same."""
    run = store.add_run()
    recorded, _ = await begin(store, run, claude)

    async def lose_postgres() -> None:
        store.is_away = True

    claude.before_answer = lose_postgres
    asking = asyncio.create_task(recorded.ask(REQUEST, Text))
    await asyncio.sleep(0.01)
    asking.cancel()
    await asyncio.wait({asking})
    store.is_away = False
    await asyncio.sleep(0.3)

    assert (row_of(run).state, run.cost_usd) == (CallState.ANSWERED, COST)


@pytest.mark.parametrize(
    ("error", "fault", "is_doubtful"),
    [
        (ClaudeRateLimitedError(), CallFault.RATE_LIMITED, False),
        (ClaudeOverloadedError(), CallFault.OVERLOADED, False),
        (ClaudeUnavailableError(), CallFault.UNAVAILABLE, True),
        (ClaudeRejectedError(), CallFault.OTHER, False),
    ],
)
async def test_a_failed_call_is_settled_with_what_it_cost(
    store: MemoryRunStore,
    claude: ScriptedClaude,
    error: ClaudeError,
    fault: CallFault,
    is_doubtful: bool,  # noqa: FBT001 - a parameter
) -> None:
    """Also an error can be paid for, and one whose end nobody saw for more than Claude said."""
    error.usage, error.cost_usd, error.is_cost_final = ONE_CALL, COST / 2, not is_doubtful
    run = store.add_run()
    claude.errors = [error]
    door = Doorkeeper()
    recorded, book = await begin(store, run, claude, door)

    with pytest.raises(type(error)):
        await recorded.ask(REQUEST, Text)

    assert (run.cost_usd, book.usage) == (COST / 2, ONE_CALL)
    assert (row_of(run).state, row_of(run).is_doubtful) == (CallState.FAILED, is_doubtful)
    assert door.told == [("fake", fault)]


async def test_a_call_that_was_never_made_costs_nothing(
    store: MemoryRunStore, claude: ScriptedClaude
) -> None:
    """Without a key nothing is sent."""
    run = store.add_run()
    claude.errors = [ClaudeNotConfiguredError()]
    recorded, _ = await begin(store, run, claude)

    with pytest.raises(ClaudeNotConfiguredError):
        await recorded.ask(REQUEST, Text)

    assert (run.cost_usd, run.purse.reserved_usd, run.purse.doubtful_usd) == (0, 0, 0)


# --- limits -----------------------------------------------------------------------------------


async def test_while_a_model_is_overloaded_the_other_one_is_asked(
    store: MemoryRunStore, claude: ScriptedClaude
) -> None:
    """If the step allows one; the answer is that of the same question."""
    run = store.add_run()
    door = Doorkeeper(closed={"fake": BreakerOpenError(wait_s=9)})
    recorded, _ = await begin(store, run, claude, door)

    with pytest.raises(CallParkedError):
        await recorded.ask(REQUEST, Text)
    assert run.calls == {}
    await recorded.ask(ClaudeRequest(system="", prompt="!", allows_fallback=True), Text)

    assert (claude.asked[0].model, row_of(run).opening.model) == ("spare", "spare")
    assert door.told == [("spare", ONE_CALL)]


# --- budgets ----------------------------------------------------------------------------------


async def test_tokens_are_counted_where_bytes_are_too_many(
    store: MemoryRunStore, claude: ScriptedClaude
) -> None:
    """A call that fits by its tokens is made, although its bytes would not."""
    run = store.add_run()
    run.purse.budget_usd = COST
    recorded, _ = await begin(store, run, claude)

    await recorded.ask(REQUEST, Text)

    assert (row_of(run).opening.worst_usd, run.cost_usd) == (COST, COST)


async def test_a_call_that_could_exceed_the_budget_is_not_made(
    store: MemoryRunStore, claude: ScriptedClaude
) -> None:
    """The limiter learns that it was not made either."""
    run = store.add_run()
    run.purse.budget_usd = COST / 2
    door = Doorkeeper()
    recorded, _ = await begin(store, run, claude, door)

    with pytest.raises(BudgetExceededError):
        await recorded.ask(REQUEST, Text)

    assert claude.asked == []
    assert door.told == [("fake", "unmade")]


async def test_calls_at_once_wait_for_each_other_to_cost_less(
    store: MemoryRunStore, claude: ScriptedClaude
) -> None:
    """Three calls of 0.01 that could be 0.02 fit into 0.03: only one after the other."""
    run = store.add_run()
    run.purse.budget_usd = 3 * COST
    recorded, _ = await begin(store, run, claude)

    async with asyncio.timeout(5):
        requests = (ClaudeRequest(system="", prompt=str(number)) for number in range(3))
        await asyncio.gather(*(recorded.ask(request, Text) for request in requests))

    assert run.cost_usd == 3 * COST


async def test_what_dead_calls_have_reserved_is_not_waited_for(
    store: MemoryRunStore, claude: ScriptedClaude
) -> None:
    """Nobody will settle it: the run needs a higher budget."""
    run = store.add_run()
    run.purse.budget_usd = 3 * COST
    run.purse.reserve(3 * COST)
    recorded, _ = await begin(store, run, claude)

    with pytest.raises(BudgetExceededError, match="whose end nobody saw"):
        await recorded.ask(REQUEST, Text)


async def test_a_run_waits_for_others_of_its_key(
    store: MemoryRunStore, claude: ScriptedClaude
) -> None:
    """They will cost less than they have reserved: it comes again, without holding a slot."""
    run = store.add_run()
    purse = store.keys[run.lease.key_id]
    purse.budget_usd = COST
    purse.reserve(COST)
    recorded, _ = await begin(store, run, claude)

    with pytest.raises(CallParkedError) as parked:
        await recorded.ask(REQUEST, Text)

    assert parked.value.reason == "budget"
    assert 2.5 <= parked.value.wait_s <= 7.5


# --- message batches --------------------------------------------------------------------------


async def test_in_batch_mode_a_question_waits_for_its_message_batch(
    store: MemoryRunStore, claude: ScriptedClaude
) -> None:
    """Its parameters are in the record; later tries wait on, and the answer is read when it is there."""
    run = store.add_run(mode=RunMode.BATCH)
    recorded, _ = await begin(store, run, claude)
    with pytest.raises(CallParkedError) as parked:
        await recorded.ask(REQUEST, Text)
    row = row_of(run)
    assert (parked.value.reason, row.state) == ("batch", CallState.WAITING)
    assert row.opening.request is not None
    assert row.opening.request["messages"][0]["content"] == "?"

    row.state = CallState.SUBMITTED
    again, _ = await begin(store, run, claude)
    with pytest.raises(CallParkedError):
        await again.ask(REQUEST, Text)
    row.state, row.answer = CallState.ANSWERED, {"text": "by batch"}
    last, _ = await begin(store, run, claude)

    assert (await last.ask(REQUEST, Text)).answer == Text(text="by batch")
    assert claude.asked == []


@pytest.mark.parametrize(
    ("kept", "error"),
    [
        ({"error_type": "invalid_request_error", "message": "too long"}, ClaudeRejectedError),
        ({"error_type": "expired", "message": "too late"}, ClaudeUnavailableError),
    ],
)
async def test_an_error_of_a_message_batch_is_the_calls_error(
    store: MemoryRunStore, claude: ScriptedClaude, kept: dict[str, str], error: type[ClaudeError]
) -> None:
    """It is raised once; the retry that follows forgets it."""
    run = store.add_run(mode=RunMode.BATCH)
    recorded, _ = await begin(store, run, claude)
    with pytest.raises(CallParkedError):
        await recorded.ask(REQUEST, Text)
    row_of(run).state, row_of(run).answer = CallState.FAILED, kept

    again, _ = await begin(store, run, claude)
    with pytest.raises(error, match=kept["message"]):
        await again.ask(REQUEST, Text)


async def test_in_batch_mode_a_cut_off_answer_goes_on_as_another_call(
    store: MemoryRunStore,
) -> None:
    """Three times; then the parts are of no use, and the next try begins anew with the first."""
    claude = AnthropicClaude(AnthropicSettings(simulator_url="http://simulator.test"))
    request = replace(REQUEST, max_tokens=20, on_truncation=Truncation.CONTINUE)
    run = store.add_run(mode=RunMode.BATCH)
    for part in ('{"te', 'xt": "', "Dear", " Ada"):
        recorded, _ = await begin(store, run, claude)
        with pytest.raises(CallParkedError, match="batch"):
            await recorded.ask(request, Text)
        row = next(row for row in run.calls.values() if row.state is CallState.WAITING)
        cut = cut_off(part)
        row.state = CallState.ANSWERED
        row.answer = keep_answer([cut], asked_model=cut.model, is_simulated=True, is_batch=True)

    recorded, _ = await begin(store, run, claude)
    with pytest.raises(ClaudeTruncatedError) as caught:
        await recorded.ask(request, Text)

    assert 4 == len(run.calls)
    assert {row.opening.question for row in run.calls.values()} == set(
        recorded.forgotten_after(caught.value) or ()
    )


async def test_a_batch_run_waits_for_its_own_results_to_make_room(
    store: MemoryRunStore, claude: ScriptedClaude
) -> None:
    """What is reserved for calls in message batches will be settled: the rest is asked then."""
    run = store.add_run(mode=RunMode.BATCH)
    run.purse.budget_usd = WORST
    recorded, _ = await begin(store, run, claude)

    for request in (REQUEST, OTHER):
        with pytest.raises(CallParkedError, match="batch"):
            await recorded.ask(request, Text)

    assert len(run.calls) == 1


# --- whose fault ------------------------------------------------------------------------------


async def raised_by(recorded: RecordedClaude) -> Exception:
    """The error that a call raises."""
    try:
        await recorded.ask(REQUEST, Text)
    except Exception as error:  # noqa: BLE001 - whatever it is
        return error
    raise AssertionError("It was answered.")


async def test_answers_are_forgotten_only_where_they_may_be_at_fault(
    store: MemoryRunStore, claude: ScriptedClaude
) -> None:
    """An error of the network keeps them; one of the step's own code may come from what Claude said."""
    run = store.add_run()
    claude.errors = [ClaudeUnavailableError()]
    recorded, _ = await begin(store, run, claude)

    of_a_call = await raised_by(recorded)

    assert recorded.forgotten_after(of_a_call) == ()
    assert recorded.forgotten_after(StepTransientError()) == ()
    assert recorded.forgotten_after(ClaudeMalformedAnswerError("not that one")) is None
    assert recorded.forgotten_after(KeyError()) is None


async def test_a_kept_answer_of_no_use_is_forgotten_alone(
    store: MemoryRunStore, claude: ScriptedClaude
) -> None:
    """The next try asks for it again, and reads the others."""
    run = store.add_run()
    recorded, _ = await begin(store, run, claude)
    await recorded.ask(REQUEST, Text)
    again, _ = await begin(store, run, claude)

    def reread(*_: object) -> None:
        raise ClaudeMalformedAnswerError

    claude.reread = reread  # type: ignore[method-assign]  # fails once
    error = await raised_by(again)

    question = claude.question(REQUEST, Text)
    assert again.forgotten_after(error) == (question,)
