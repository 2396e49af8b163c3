"""Looking up keys: one statement for many, and never an old answer."""

import asyncio

import pytest

from services.api.deadline import Pulse
from services.api.key_lookups import KeyLookups
from services.core.errors import StoreUnavailableError
from services.core.runs.models import ApiKey
from tests.fakes.run_store import InMemoryRunStore

PREFIXES = ("a" * 12, "b" * 12)


class SlowRecord(InMemoryRunStore):
    """Answers when it is told to, with what was true when it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.may_answer = asyncio.Event()

    async def find_key(self, prefix: str) -> ApiKey | None:
        """As RunStore."""
        key = await super().find_key(prefix)
        await self.may_answer.wait()
        return key


@pytest.fixture
async def store() -> SlowRecord:
    """A record with two keys."""
    store = SlowRecord()
    for prefix in PREFIXES:
        await store.add_key(name="test", prefix=prefix, key_hash=b"")
    store.statements.clear()
    return store


@pytest.fixture
def lookups(store: SlowRecord) -> KeyLookups:
    """Look-ups in it."""
    return KeyLookups(store, Pulse())  # type: ignore[arg-type]  # it has find_key


async def ask(lookups: KeyLookups, prefix: str, times: int) -> "list[asyncio.Task[ApiKey | None]]":
    """Ask, and let what was asked begin."""
    asked = [asyncio.create_task(lookups.find_key(prefix)) for _ in range(times)]
    for _ in range(3):
        await asyncio.sleep(0)
    return asked


async def test_many_who_ask_at_once_cost_two_statements(
    store: SlowRecord, lookups: KeyLookups
) -> None:
    """One is on its way for those who came first, one for all who came since."""
    first = await ask(lookups, PREFIXES[0], 1)
    later = [task for _ in range(5) for task in await ask(lookups, PREFIXES[0], 20)]
    assert store.statements == ["find_key"]
    store.may_answer.set()

    found = {key.prefix for key in await asyncio.gather(*first, *later) if key}

    assert found == {PREFIXES[0]}
    assert store.statements == ["find_key", "find_key"]


async def test_who_asks_after_a_key_was_revoked_sees_it(
    store: SlowRecord, lookups: KeyLookups
) -> None:
    """An answer that is on its way may be old; it is for those who asked before."""
    before = await ask(lookups, PREFIXES[0], 1)
    await store.revoke_key(PREFIXES[0])
    after = await ask(lookups, PREFIXES[0], 1)
    store.may_answer.set()

    answers = [key.is_revoked for key in await asyncio.gather(*before, *after) if key]

    assert answers == [False, True]


async def test_keys_do_not_wait_for_each_other(store: SlowRecord, lookups: KeyLookups) -> None:
    """Each has a statement of its own."""
    both = [task for prefix in PREFIXES for task in await ask(lookups, prefix, 3)]

    assert store.statements == ["find_key", "find_key"]
    store.may_answer.set()
    assert len(await asyncio.gather(*both)) == 6


async def test_a_caller_that_leaves_takes_nobody_along(
    store: SlowRecord, lookups: KeyLookups
) -> None:
    """Its deadline is not the others'."""
    leaver, *others = await ask(lookups, PREFIXES[0], 3)
    leaver.cancel()
    store.may_answer.set()

    assert [key.prefix for key in await asyncio.gather(*others) if key] == [PREFIXES[0]] * 2


async def test_an_absent_record_is_told_to_all_and_forgotten(
    store: SlowRecord, lookups: KeyLookups
) -> None:
    """The next who asks is answered anew."""
    store.may_answer.set()
    store.is_away = True
    answers = await asyncio.gather(*await ask(lookups, PREFIXES[0], 3), return_exceptions=True)
    store.is_away = False

    assert [type(answer) for answer in answers] == [StoreUnavailableError] * 3
    assert await lookups.find_key(PREFIXES[0]) is not None
