"""A request waits for the record for a bounded time in all, and for nothing else."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from services.api import deadline
from services.api.deadline import Pulse, record_deadline
from services.core.errors import StoreUnavailableError
from services.core.runs.models import ApiKey, Run
from tests.fakes.run_store import InMemoryRunStore
from tests.unit.api.conftest import post_run
from tests.unit.api.test_errors import assert_problem

SHORT_S = 0.1


@pytest.fixture(autouse=True)
def short_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tenth of a second for each request, and for the record's silence."""
    monkeypatch.setattr(deadline, "REQUEST_S", SHORT_S)
    monkeypatch.setattr(deadline, "SILENCE_S", SHORT_S)


async def test_what_is_in_time_is_left_alone() -> None:
    """The deadline is gone with its context."""
    with record_deadline(Pulse()):
        await asyncio.sleep(0)
    await asyncio.sleep(SHORT_S * 2)


async def test_what_takes_too_long_is_an_absent_record() -> None:
    """Several statements share one bound."""

    async def ask_often() -> None:
        with record_deadline(Pulse()):
            for _ in range(10):
                await asyncio.sleep(SHORT_S / 5)

    with pytest.raises(StoreUnavailableError):
        await ask_often()


async def test_anothers_timeout_stays_what_it_is() -> None:
    """Only the deadline's own end is the record's absence."""
    with pytest.raises(TimeoutError), record_deadline(Pulse()):
        raise TimeoutError


async def test_a_pause_costs_no_time() -> None:
    """What was left before is left afterwards, and no more."""
    passed = []

    async def wait_in_between() -> None:
        with record_deadline(Pulse()) as limit:
            with limit.paused():
                await asyncio.sleep(SHORT_S * 2)
            await asyncio.sleep(SHORT_S / 5)
            passed.append("the pause")
            await asyncio.sleep(SHORT_S * 2)

    with pytest.raises(StoreUnavailableError):
        await wait_in_between()

    assert passed == ["the pause"]


async def test_time_that_stood_still_does_not_end_the_request_later() -> None:
    """Nor does it cut off what comes after the request."""
    with record_deadline(Pulse()) as limit:
        await asyncio.sleep(SHORT_S / 5)
        with limit.paused():
            await asyncio.sleep(SHORT_S / 5)
        with limit.paused():
            await asyncio.sleep(SHORT_S * 1.5)

    await asyncio.sleep(SHORT_S * 2)


async def test_while_the_record_answers_others_nobody_is_cut_off() -> None:
    """A busy machine is slow, not down; once the record is silent, the request ends."""
    pulse = Pulse()
    passed = []

    async def ask_long() -> None:
        with record_deadline(pulse):
            for number in range(30):
                await asyncio.sleep(SHORT_S / 5)
                passed.append(number)
                if number < 10:
                    pulse.note()

    with pytest.raises(StoreUnavailableError):
        await ask_long()

    assert 10 < len(passed) < 20


async def test_authentication_and_work_share_the_time(
    client: httpx.AsyncClient, store: InMemoryRunStore
) -> None:
    """Each would be in time by itself; together they are a 503 that says when to come back."""
    run_id = await post_run(client)
    find_key, get_run = store.find_key, store.get_run

    async def find_slowly(prefix: str) -> ApiKey | None:
        await asyncio.sleep(SHORT_S * 0.6)
        return await find_key(prefix)

    async def get_slowly(*ids: Any) -> Run:
        await asyncio.sleep(SHORT_S * 1.2)
        return await get_run(*ids)

    store.find_key = find_slowly  # type: ignore[method-assign]  # a slow record
    quick = await client.get(f"/v1/runs/{run_id}")
    store.get_run = get_slowly  # type: ignore[method-assign]  # likewise
    slow = await client.get(f"/v1/runs/{run_id}")

    assert quick.status_code == 200
    assert_problem(slow, 503, "record-unavailable")
    assert int(slow.headers["retry-after"]) >= 1


async def test_a_slow_client_is_waited_for(client: httpx.AsyncClient) -> None:
    """The time that its body takes to come in is its own."""

    async def body() -> AsyncIterator[bytes]:
        for part in (b'{"pipeline": "letter",', b' "input": {"name"', b': "Elena"}}'):
            await asyncio.sleep(SHORT_S * 0.7)
            yield part

    headers = {"Content-Type": "application/json"}
    answer = await client.post("/v1/runs", content=body(), headers=headers)

    assert answer.status_code == 202


async def test_a_stream_may_last(client: httpx.AsyncClient, store: InMemoryRunStore) -> None:
    """Only what comes before its first byte is bounded."""
    run_id = await post_run(client)
    reading = asyncio.create_task(client.get(f"/v1/runs/{run_id}/events"))
    await asyncio.sleep(SHORT_S * 4)
    await store.cancel_run(next(iter(store.keys.values())).id, run_id)

    async with asyncio.timeout(2):
        assert "event: run.cancelled" in (await reading).text
