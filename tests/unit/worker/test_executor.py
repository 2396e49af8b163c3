"""A run from its lease to its ending."""

import asyncio
from dataclasses import replace
from decimal import Decimal

import pytest

from services.core.claude.protocol import ClaudeRequest
from services.core.errors import (
    CallParkedError,
    ClaudeRateLimitedError,
    ClaudeUnavailableError,
    LeaseLostError,
    StepInputError,
    StoreUnavailableError,
)
from services.core.runs.models import Checkpoint, Failure, Lease
from services.core.runs.states import FailureReason, RunState
from services.core.usage import Usage
from services.pipelines.definition import Step, StepContext
from services.worker.endings import Cleared, Ending, Failed, Parked, PutBack, Retrying, Succeeded
from services.worker.executor import RunExecutor
from tests.fakes.memory_store import MemoryRun, MemoryRunStore
from tests.fakes.tiny_pipeline import EMAIL_ID, ScriptedClaude, Text, sign, tiny_pipeline
from tests.fakes.told_texts import ToldTexts
from tests.unit.worker.conftest import MakeExecutor

ONE_CALL = Usage(input_tokens=10, output_tokens=5)


async def _claim(store: MemoryRunStore) -> Lease:
    (lease,) = await store.claim_due_runs(owner="me", limit=1)
    return lease


async def _execute(executor: RunExecutor, store: MemoryRunStore) -> Ending:
    """Claim, execute and record."""
    lease = await _claim(store)
    ending = await executor.execute(lease)
    await executor.record(lease, ending)
    return ending


def _failing(error: BaseException) -> Step:
    async def ask(given: Text, context: StepContext) -> Text:
        raise error

    return Step(ask)


async def test_a_run_goes_through_its_steps_to_its_end(
    store: MemoryRunStore, make_executor: MakeExecutor
) -> None:
    """Each step is checkpointed with what it cost; the output and its email are kept at the end."""
    run = store.add_run()

    ending = await _execute(make_executor(), store)

    assert isinstance(ending, Succeeded)
    assert run.state is RunState.SUCCEEDED
    assert {"text": "Dear Ada, signed in try 1"} == run.output
    assert {"ask": {"text": "Dear Ada"}, "sign": run.output} == run.lease.checkpoints
    assert (ONE_CALL, Decimal("0.01")) == (run.usage, run.cost_usd)
    assert run.email is not None
    assert (EMAIL_ID, "Dear Ada, signed in try 1") == (run.email.id, run.email.body)


async def test_claudes_text_is_told_before_the_checkpoint(
    store: MemoryRunStore, make_executor: MakeExecutor, texts: ToldTexts
) -> None:
    """Whoever watches has read the whole answer when the step is done; failed tries tell theirs as well."""
    store.add_run()
    told_at_checkpoint: list[object] = []
    keep = store._keep

    def note(run: MemoryRun, checkpoint: Checkpoint) -> None:
        told_at_checkpoint.append(list(texts.told))
        keep(run, checkpoint)

    store._keep = note
    await _execute(make_executor(), store)

    asked = [(1, "ask", 1), (0, "Dear "), (0, "Ada"), "flush", "close"]
    signed = [(1, "sign", 1), "flush", "close"]
    assert [asked, asked + signed] == told_at_checkpoint


async def test_a_try_that_is_cut_off_tells_no_more(
    store: MemoryRunStore, make_executor: MakeExecutor, claude: ScriptedClaude, texts: ToldTexts
) -> None:
    """Its texts are left to expire, also when the worker stops."""
    store.add_run()
    reached = asyncio.Event()

    async def hang() -> None:
        reached.set()
        await asyncio.sleep(60)

    claude.before_answer = hang
    running = asyncio.create_task(make_executor().execute(await _claim(store)))
    await reached.wait()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)

    assert [(1, "ask", 1), (0, "Dear "), (0, "Ada"), "close"] == texts.told


async def test_a_finished_step_never_runs_again(
    store: MemoryRunStore, make_executor: MakeExecutor, claude: ScriptedClaude
) -> None:
    """A run goes on after its last checkpoint: what Claude answered is not asked again."""
    run = store.add_run()
    run.lease.checkpoints["ask"] = {"text": "Kept"}

    await _execute(make_executor(), store)

    assert [] == claude.asked
    assert {"sign": 1} == run.tries
    assert {"text": "Kept, signed in try 1"} == run.output


async def test_a_run_whose_steps_are_all_done_only_has_to_end(
    store: MemoryRunStore, make_executor: MakeExecutor
) -> None:
    """A worker that died between the last checkpoint and the end leaves no step to repeat."""
    run = store.add_run()
    run.lease.checkpoints.update({"ask": {"text": "a"}, "sign": {"text": "b"}})

    await _execute(make_executor(), store)

    assert {} == run.tries
    assert ({"text": "b"}, RunState.SUCCEEDED) == (run.output, run.state)


async def test_a_step_that_the_claim_has_started_is_not_started_again(
    store: MemoryRunStore, make_executor: MakeExecutor
) -> None:
    """Its try has the number that the claim gave it; the next step's is its own."""
    run = store.add_run()
    run.tries["ask"] = 3

    await make_executor().execute(replace(await _claim(store), started_attempt=3))

    assert {"ask": 3, "sign": 1} == run.tries


async def test_the_last_checkpoint_comes_with_the_end(
    store: MemoryRunStore, make_executor: MakeExecutor
) -> None:
    """One statement writes both, so that the run is never seen without either."""
    run = store.add_run()
    executor = make_executor()
    lease = await _claim(store)

    ending = await executor.execute(lease)

    assert isinstance(ending, Succeeded)
    assert (["ask"], "sign") == (list(run.lease.checkpoints), ending.last_step)


async def test_an_error_of_the_moment_requeues_the_run(
    store: MemoryRunStore, make_executor: MakeExecutor, claude: ScriptedClaude
) -> None:
    """Waiting is a time in the record; the next try knows its number."""
    run = store.add_run()
    claude.errors = [ClaudeRateLimitedError(retry_after_s=9)]

    first = await _execute(make_executor(), store)
    delay_s, run.due_in_s = run.due_in_s, 0
    await _execute(make_executor(), store)

    assert isinstance(first, Retrying)
    assert 9 <= delay_s <= 11
    assert ["Claude's rate limit was reached."] == run.errors
    assert {"ask": 2, "sign": 1} == run.tries
    assert run.state is RunState.SUCCEEDED


async def test_the_last_try_fails_the_run(
    store: MemoryRunStore, make_executor: MakeExecutor, claude: ScriptedClaude
) -> None:
    """After max_attempts the run is a dead letter that says how often it was tried."""
    run = store.add_run()
    run.lease.step_attempts["ask"] = run.tries["ask"] = 2
    claude.errors = [ClaudeUnavailableError("gone")]

    await _execute(make_executor(max_attempts=3), store)

    expected = Failure(FailureReason.RETRIES_EXHAUSTED, "ask", "gone", attempts=3)
    assert expected == run.failure


async def test_only_failed_tries_count_towards_the_last(
    store: MemoryRunStore, make_executor: MakeExecutor, claude: ScriptedClaude
) -> None:
    """Deployments and crashes that interrupted a step do not use up its tries."""
    run = store.add_run()
    run.tries["ask"] = 7
    claude.errors = [ClaudeUnavailableError()]

    await _execute(make_executor(max_attempts=2), store)

    assert RunState.QUEUED is run.state


async def test_a_permanent_error_fails_the_run_at_once(
    store: MemoryRunStore, make_executor: MakeExecutor
) -> None:
    """Nothing is tried that cannot help."""
    run = store.add_run()
    pipeline = tiny_pipeline(steps=(_failing(StepInputError("no such page")), Step(sign)))

    await _execute(make_executor(pipeline), store)

    expected = Failure(FailureReason.PERMANENT, "ask", "no such page", attempts=1)
    assert expected == run.failure


async def test_an_unknown_error_shows_only_its_kind(
    store: MemoryRunStore, make_executor: MakeExecutor, caplog: pytest.LogCaptureFixture
) -> None:
    """Its text could hold anything, so clients do not see it; the log says where it arose."""
    run = store.add_run()
    pipeline = tiny_pipeline(steps=(_failing(KeyError("secret")), Step(sign)))

    await _execute(make_executor(pipeline), store)

    assert ["Unexpected KeyError."] == run.errors
    assert "test_executor.py" in caplog.text


async def test_input_that_does_not_fit_fails_the_run(
    store: MemoryRunStore, make_executor: MakeExecutor
) -> None:
    """An input or checkpoint of an older version of the pipeline is no reason to try for ever."""
    run = store.add_run(input={"words": 1})

    await _execute(make_executor(), store)

    assert run.failure is not None
    assert FailureReason.PERMANENT is run.failure.reason


@pytest.mark.parametrize("steps", [{}, {"ask": 0}, {"ask": 0, "sign": 0, "send": 0}])
async def test_a_run_of_other_steps_is_put_back(
    store: MemoryRunStore, make_executor: MakeExecutor, steps: dict[str, int]
) -> None:
    """A deployment changes the pipeline: a worker of the other version takes the run up."""
    run = store.add_run()
    run.lease.step_attempts.clear()
    run.lease.step_attempts.update(steps)

    await _execute(make_executor(), store)

    assert (RunState.QUEUED, [5.0], {}) == (run.state, run.release_delays_s, run.tries)


async def test_a_run_of_an_unknown_pipeline_is_put_back(
    store: MemoryRunStore, make_executor: MakeExecutor
) -> None:
    """It waits for a worker that knows the pipeline, and is neither lost nor failed."""
    run = store.add_run("new")

    ending = await _execute(make_executor(), store)

    assert isinstance(ending, PutBack)
    assert (RunState.QUEUED, [5.0]) == (run.state, run.release_delays_s)


async def test_a_suspect_that_comes_on_alone_goes_on_among_others(
    store: MemoryRunStore, make_executor: MakeExecutor
) -> None:
    """One checkpoint shows that it kills no process; what is left waits for no other suspect."""
    run = store.add_run(is_on_probation=True)

    ending = await _execute(make_executor(), store)

    assert ending == Cleared()
    assert (RunState.QUEUED, [True]) == (run.state, run.releases_cleared)
    assert ["ask"] == list(run.lease.checkpoints)


async def test_a_suspect_ends_alone_with_its_last_step(
    store: MemoryRunStore, make_executor: MakeExecutor
) -> None:
    """With nothing left to do it is not given back."""
    run = store.add_run(is_on_probation=True)
    executor = make_executor()
    await _execute(executor, store)

    ending = await _execute(executor, store)

    assert isinstance(ending, Succeeded)
    assert run.state is RunState.SUCCEEDED


async def test_a_step_that_takes_too_long_times_out(
    store: MemoryRunStore, make_executor: MakeExecutor, claude: ScriptedClaude
) -> None:
    """The call is cut off, and the run fails with reason timed_out."""
    run = store.add_run()
    claude.before_answer = asyncio.Event().wait

    ending = await _execute(make_executor(step_s=0.05), store)

    assert isinstance(ending, Failed)
    assert run.failure is not None
    assert (FailureReason.TIMED_OUT, "ask", 1) == (
        run.failure.reason,
        run.failure.step,
        run.failure.attempts,
    )


async def test_a_run_that_takes_too_long_times_out(
    store: MemoryRunStore, make_executor: MakeExecutor, claude: ScriptedClaude
) -> None:
    """The deadline of the run cuts off the step that it falls into, and the failure names it."""
    run = store.add_run(remaining_s=0.05)
    claude.before_answer = asyncio.Event().wait

    await _execute(make_executor(), store)

    message = "The run did not end before its deadline."
    assert Failure(FailureReason.TIMED_OUT, "ask", message, attempts=1) == run.failure


async def test_after_its_deadline_a_run_asks_nothing_more(
    store: MemoryRunStore, make_executor: MakeExecutor, claude: ScriptedClaude
) -> None:
    """No call is paid for whose answer would come too late in any case."""
    run = store.add_run(remaining_s=-1)

    await _execute(make_executor(), store)

    assert (RunState.FAILED, []) == (run.state, claude.asked)


@pytest.mark.parametrize("end", [SystemExit(3), KeyboardInterrupt()])
async def test_a_step_that_leaves_has_failed(
    store: MemoryRunStore, make_executor: MakeExecutor, end: BaseException
) -> None:
    """sys.exit() in a step is a failed try; neither the loop nor the process ends."""
    run = store.add_run()
    pipeline = tiny_pipeline(steps=(_failing(end), Step(sign)))

    ending = await _execute(make_executor(pipeline), store)

    assert isinstance(ending, Retrying)
    assert ["The step tried to end its process."] == run.errors


async def test_a_step_whose_call_was_cancelled_by_others_has_failed(
    store: MemoryRunStore, make_executor: MakeExecutor
) -> None:
    """A CancelledError that nobody of us asked for is no reason to give the run back for ever."""
    run = store.add_run()
    pipeline = tiny_pipeline(steps=(_failing(asyncio.CancelledError()), Step(sign)))

    ending = await _execute(make_executor(pipeline), store)

    assert isinstance(ending, Retrying)
    assert ["Unexpected CancelledError."] == run.errors


async def test_a_steps_own_timeout_is_an_error_of_the_moment(
    store: MemoryRunStore, make_executor: MakeExecutor
) -> None:
    """Only our limit means timed_out; a TimeoutError from inside the step is tried again."""
    store.add_run()
    pipeline = tiny_pipeline(steps=(_failing(TimeoutError()), Step(sign)))

    ending = await _execute(make_executor(pipeline), store)

    assert isinstance(ending, Retrying)


async def test_a_lost_lease_stops_the_run_without_a_trace(
    store: MemoryRunStore, make_executor: MakeExecutor, claude: ScriptedClaude
) -> None:
    """Whoever took the run writes; the zombie's answer and its error are dropped."""
    run = store.add_run()
    executor = make_executor()
    lease = await _claim(store)

    async def lose() -> None:
        store.steal(run)

    claude.before_answer = lose
    with pytest.raises(LeaseLostError):
        await executor.execute(lease)

    assert {} == run.lease.checkpoints
    assert RunState.RUNNING is run.state


async def test_an_answer_waits_for_the_record_to_come_back(
    store: MemoryRunStore, make_executor: MakeExecutor, claude: ScriptedClaude
) -> None:
    """An outage of PostgreSQL costs time; what was paid for is not asked again."""
    run = store.add_run()

    async def lose_postgres() -> None:
        store.is_away = True
        asyncio.get_running_loop().call_later(0.5, lambda: setattr(store, "is_away", False))

    claude.before_answer = lose_postgres
    await _execute(make_executor(), store)

    assert RunState.SUCCEEDED is run.state
    assert 1 == len(claude.asked)


async def test_a_cancelled_execution_leaves_at_once(
    store: MemoryRunStore, make_executor: MakeExecutor, claude: ScriptedClaude
) -> None:
    """Cancellation reaches the call to Claude; no retry table stands in its way."""
    store.add_run()
    claude.before_answer = asyncio.Event().wait
    task = asyncio.create_task(make_executor().execute(await _claim(store)))
    await asyncio.sleep(0.02)

    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_failing_email_is_the_pipelines_failure(
    store: MemoryRunStore, make_executor: MakeExecutor
) -> None:
    """A defect in what follows the last step ends in the record too, not in a dead worker."""
    run = store.add_run()
    pipeline = tiny_pipeline()
    object.__setattr__(pipeline, "email_of", lambda _: 1 / 0)
    await _execute(make_executor(pipeline), store)

    expected = Failure(FailureReason.PERMANENT, "sign", "Unexpected ZeroDivisionError.", 1)
    assert expected == run.failure
    assert {"text": "Dear Ada, signed in try 1"} == run.lease.checkpoints["sign"]


async def test_recording_an_ending_waits_for_the_record(
    store: MemoryRunStore, make_executor: MakeExecutor
) -> None:
    """The ending is written once PostgreSQL answers."""
    run = store.add_run()
    executor = make_executor()
    lease = await _claim(store)
    ending = await executor.execute(lease)
    store.is_away = True

    with pytest.raises(StoreUnavailableError):
        await store.renew_leases([lease])
    recording = asyncio.create_task(executor.record(lease, ending))
    await asyncio.sleep(0.05)
    store.is_away = False
    await recording

    assert RunState.SUCCEEDED is run.state


async def test_a_step_that_cannot_ask_gives_its_slot_away(
    store: MemoryRunStore, make_executor: MakeExecutor
) -> None:
    """Waiting is a time in the record, and no try."""
    run = store.add_run()
    waiting = CallParkedError(wait_s=7, reason="rate_limit")
    pipeline = tiny_pipeline(steps=(_failing(waiting), Step(sign)))

    ending = await _execute(make_executor(pipeline), store)

    assert ending == Parked("ask", 7, "rate_limit")
    assert (run.state, run.due_in_s, run.tries["ask"]) == (RunState.QUEUED, 7, 0)


async def test_a_run_without_money_stops_before_the_call(
    store: MemoryRunStore, make_executor: MakeExecutor, claude: ScriptedClaude
) -> None:
    """The reason says that a higher budget helps; what Claude answered before is kept for that."""
    run = store.add_run()
    run.purse.budget_usd = Decimal("0.001")

    await _execute(make_executor(), store)

    assert run.failure is not None
    assert (run.failure.reason, claude.asked) == (FailureReason.BUDGET_EXCEEDED, [])
    assert run.forgotten == [()]


async def test_a_busy_claude_uses_up_no_try(
    store: MemoryRunStore, make_executor: MakeExecutor, claude: ScriptedClaude
) -> None:
    """However often it says 429, the run goes on."""
    run = store.add_run()
    claude.errors = [ClaudeRateLimitedError() for _ in range(5)]

    for _ in range(6):
        run.due_in_s = 0
        await _execute(make_executor(max_attempts=2), store)

    assert (run.state, run.lease.step_attempts["ask"]) == (RunState.SUCCEEDED, 0)


async def test_a_step_that_chokes_on_an_answer_asks_again(
    store: MemoryRunStore, make_executor: MakeExecutor, claude: ScriptedClaude
) -> None:
    """Its own error may come from what Claude said: the next try does not read it again."""
    run = store.add_run()

    async def ask(given: Text, context: StepContext) -> Text:
        reply = await context.claude.ask(ClaudeRequest(system="", prompt="?"), Text)
        if context.attempt == 1:
            raise KeyError(reply.answer.text)
        return reply.answer

    pipeline = tiny_pipeline(steps=(Step(ask), Step(sign)))
    await _execute(make_executor(pipeline), store)
    run.due_in_s = 0
    await _execute(make_executor(pipeline), store)

    assert (run.state, len(claude.asked)) == (RunState.SUCCEEDED, 2)
