"""Claiming as much as there are slots for, whenever there is work."""

import asyncio
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from services.core.runs.states import RunState
from services.worker.dispatcher import RunDispatcher
from services.worker.identity import Identity
from services.worker.leases import LeaseKeeper
from tests.fakes.memory_store import MemoryRunStore
from tests.fakes.tiny_pipeline import ScriptedClaude
from tests.fakes.waiting import until

MakeDispatcher = Callable[..., RunDispatcher]


@pytest.fixture
async def make_dispatcher(
    store: MemoryRunStore, keeper: LeaseKeeper, identity: Identity
) -> AsyncIterator[MakeDispatcher]:
    """Make and start a dispatcher; drained at the end."""
    made = []

    def make(*, slots: int = 10, poll_interval_s: float = 60) -> RunDispatcher:
        dispatcher = RunDispatcher(
            store, keeper, identity=identity, slots=slots, poll_interval_s=poll_interval_s
        )
        dispatcher.start()
        made.append(dispatcher)
        return dispatcher

    yield make
    for dispatcher in made:
        await dispatcher.drain(0)


async def test_one_hint_claims_all_there_is_room_for(
    store: MemoryRunStore, make_dispatcher: MakeDispatcher, claude: ScriptedClaude
) -> None:
    """A burst costs one message: the worker takes every due run in one statement."""
    claude.before_answer = asyncio.Event().wait
    dispatcher = make_dispatcher(slots=10)
    await until(lambda: store.claims == [10])
    for _ in range(7):
        store.add_run()

    dispatcher.wake()
    await until(lambda: store.states() == [RunState.RUNNING] * 7)

    assert [10, 10] == store.claims


async def test_the_end_of_a_run_makes_room_for_another(
    store: MemoryRunStore, make_dispatcher: MakeDispatcher, claude: ScriptedClaude
) -> None:
    """What a claim left behind for its key's limit is claimed when a run ends, without a hint."""
    may_end = asyncio.Event()
    claude.before_answer = may_end.wait
    first = store.add_run()
    make_dispatcher(slots=10, poll_interval_s=60)
    await until(lambda: first.state is RunState.RUNNING)
    held_back = store.add_run()

    may_end.set()

    await until(lambda: held_back.state is RunState.SUCCEEDED)


async def test_a_backlog_is_worked_off_without_further_hints(
    store: MemoryRunStore, make_dispatcher: MakeDispatcher
) -> None:
    """Each free slot claims again."""
    for _ in range(50):
        store.add_run()

    make_dispatcher(slots=4)
    await until(lambda: store.states() == [RunState.SUCCEEDED] * 50)

    assert max(store.claims) <= 4


async def test_slots_that_get_free_one_by_one_are_filled_together(
    store: MemoryRunStore,
    make_dispatcher: MakeDispatcher,
    claude: ScriptedClaude,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One claim follows as many ends as are worth it, not one each."""
    monkeypatch.setattr("services.worker.dispatcher.GATHER_S", 60.0)
    gate = asyncio.Semaphore(0)
    claude.before_answer = gate.acquire
    for _ in range(100):
        store.add_run()
    make_dispatcher(slots=20)
    await until(lambda: len(claude.asked) == 20)

    for _ in range(5):
        assert [20] == store.claims
        before = store.states().count(RunState.SUCCEEDED)
        gate.release()
        await until(lambda more=before + 1: more == store.states().count(RunState.SUCCEEDED))

    await until(lambda: len(claude.asked) == 25)
    assert [20, 5] == store.claims


async def test_ends_are_not_gathered_for_long(
    store: MemoryRunStore, make_dispatcher: MakeDispatcher, claude: ScriptedClaude
) -> None:
    """A slot does not stay empty because no other gets free."""
    gate = asyncio.Semaphore(0)
    claude.before_answer = gate.acquire
    for _ in range(21):
        store.add_run()
    make_dispatcher(slots=20)
    await until(lambda: len(claude.asked) == 20)

    gate.release()

    await until(lambda: len(claude.asked) == 21)


async def test_a_hint_is_followed_at_once_while_little_is_going_on(
    store: MemoryRunStore,
    make_dispatcher: MakeDispatcher,
    claude: ScriptedClaude,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nothing is gathered as long as each claim finds one run."""
    monkeypatch.setattr("services.worker.dispatcher.GATHER_S", 60.0)
    claude.before_answer = asyncio.Event().wait
    dispatcher = make_dispatcher(slots=20)
    dispatcher.wake()

    for number in range(1, 4):
        run = store.add_run()
        dispatcher.wake()
        await until(lambda run=run: run.state is RunState.RUNNING)
        assert number == store.states().count(RunState.RUNNING)


async def test_hints_are_gathered_while_many_come(
    store: MemoryRunStore,
    make_dispatcher: MakeDispatcher,
    claude: ScriptedClaude,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """After a claim of several runs the next ones come together, too."""
    monkeypatch.setattr("services.worker.dispatcher.GATHER_S", 0.05)
    claude.before_answer = asyncio.Event().wait
    for _ in range(2):
        store.add_run()
    dispatcher = make_dispatcher(slots=20)
    await until(lambda: store.states() == [RunState.RUNNING] * 2)

    for _ in range(10):
        store.add_run()
        dispatcher.wake()
        await asyncio.sleep(0)

    await until(lambda: store.states() == [RunState.RUNNING] * 12)
    assert 2 == len(store.claims)


async def test_a_few_slots_that_are_left_are_filled_a_little_later(
    store: MemoryRunStore,
    make_dispatcher: MakeDispatcher,
    claude: ScriptedClaude,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A whole claim that leaves few slots is followed by another, without an end or a hint."""
    monkeypatch.setattr("services.worker.dispatcher.CLAIM_BATCH", 8)
    claude.before_answer = asyncio.Event().wait
    for _ in range(10):
        store.add_run()

    make_dispatcher(slots=9)

    await until(lambda: store.states().count(RunState.RUNNING) == 9)
    assert [8, 1] == store.claims


async def test_never_more_runs_than_slots(
    store: MemoryRunStore,
    make_dispatcher: MakeDispatcher,
    keeper: LeaseKeeper,
    claude: ScriptedClaude,
) -> None:
    """What exceeds the slots stays in the record, for other workers."""
    claude.before_answer = asyncio.Event().wait
    for _ in range(5):
        store.add_run()

    dispatcher = make_dispatcher(slots=3)
    for _ in range(20):
        dispatcher.wake()
        await asyncio.sleep(0.005)

    assert 3 == len(keeper)
    assert 2 == store.states().count(RunState.QUEUED)


async def test_without_hints_it_looks_by_itself(
    store: MemoryRunStore, make_dispatcher: MakeDispatcher
) -> None:
    """While Redis is away runs go on, only later."""
    make_dispatcher(poll_interval_s=0.02)
    await until(lambda: len(store.claims) == 1)

    store.add_run()

    await until(lambda: store.states() == [RunState.SUCCEEDED])


async def test_it_goes_on_after_an_outage_of_the_record(
    store: MemoryRunStore, make_dispatcher: MakeDispatcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PostgreSQL away: it waits and tries again, without a hint and without a restart."""
    monkeypatch.setattr("services.worker.dispatcher.LONGEST_PAUSE_S", 0.02)
    store.is_away = True
    dispatcher = make_dispatcher()
    store.add_run()
    await asyncio.sleep(0.05)

    dispatcher.check()
    store.is_away = False

    await until(lambda: store.states() == [RunState.SUCCEEDED])


async def test_it_claims_as_itself_and_only_what_it_knows(
    store: MemoryRunStore, make_dispatcher: MakeDispatcher
) -> None:
    """A run of another version's shape is left to that version; leases are under the owner's name."""
    known = store.add_run(shape="tiny:ask,sign")
    unknown = store.add_run(shape="tiny:ask,sign,send")

    make_dispatcher()
    await until(lambda: known.state is RunState.SUCCEEDED)

    assert ("worker@test/1", RunState.QUEUED) == (known.owner, unknown.state)


async def test_draining_claims_nothing_more(
    store: MemoryRunStore, make_dispatcher: MakeDispatcher, claude: ScriptedClaude
) -> None:
    """From the signal on new work is left to others; what runs is finished or given back."""
    claude.before_answer = asyncio.Event().wait
    running = store.add_run()
    dispatcher = make_dispatcher()
    await until(lambda: len(claude.asked) == 1)

    draining = asyncio.create_task(dispatcher.drain(0.05))
    await asyncio.sleep(0.01)
    late = store.add_run()
    dispatcher.wake()
    released = await draining

    assert [running.lease.run_id] == released
    assert (RunState.QUEUED, 1) == (running.state, running.releases)
    assert (RunState.QUEUED, 0) == (late.state, late.lease.fence)


async def test_a_claim_under_way_is_not_orphaned_by_draining(
    store: MemoryRunStore, make_dispatcher: MakeDispatcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Runs whose claim commits while the worker stops are given back, not left to lapse."""
    run = store.add_run()
    claim, may_answer = store.claim_due_runs, asyncio.Event()

    async def slow_claim(**wanted: Any):
        leases = await claim(**wanted)
        await may_answer.wait()
        return leases

    monkeypatch.setattr(store, "claim_due_runs", slow_claim)
    dispatcher = make_dispatcher()
    await until(lambda: run.state is RunState.RUNNING)

    draining = asyncio.create_task(dispatcher.drain(1))
    await asyncio.sleep(0.01)
    may_answer.set()
    await draining

    assert RunState.RUNNING is not run.state


@pytest.fixture
def sigterms() -> Iterator[list[int]]:
    """The SIGTERMs that this process would have got."""
    got: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: got.append(number))
    yield got
    signal.signal(signal.SIGTERM, before)


async def test_a_dispatcher_that_has_died_ends_its_process(
    store: MemoryRunStore,
    make_dispatcher: MakeDispatcher,
    monkeypatch: pytest.MonkeyPatch,
    sigterms: list[int],
) -> None:
    """A defect that ends claiming, such as a record without tables, leaves no worker that only looks alive."""
    dispatcher = make_dispatcher()
    await until(lambda: len(store.claims) == 1)
    dispatcher.check()

    async def broken_claim(**_: object):
        raise ZeroDivisionError

    monkeypatch.setattr(store, "claim_due_runs", broken_claim)
    dispatcher.wake()
    await until(lambda: sigterms == [signal.SIGTERM])

    with pytest.raises(RuntimeError, match="claims have ended"):
        dispatcher.check()
