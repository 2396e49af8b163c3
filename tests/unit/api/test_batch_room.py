"""A bound on the batches that one process takes in at once."""

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest

from services.api import deadline
from services.api.batch_room import MAX_AT_ONCE, BatchRoom
from services.api.errors import TooBusyError
from tests.fakes.waiting import until
from tests.unit.api.test_errors import assert_problem

ROW = b'{"name": "Elena"}\n'


def test_a_place_is_free_again_however_its_batch_ended() -> None:
    """A batch that fails leaves its place to others."""
    room = BatchRoom()

    for _ in range(2 * MAX_AT_ONCE):
        with pytest.raises(ValueError, match="broken"), room.take():
            raise ValueError("broken")
    places = [room.take() for _ in range(MAX_AT_ONCE + 1)]
    for place in places[:-1]:
        place.__enter__()

    with pytest.raises(TooBusyError):
        places[-1].__enter__()


async def test_one_batch_too_many_is_told_to_come_back(client: httpx.AsyncClient) -> None:
    """It is refused before its body is read; those that are under way end well."""
    may_end, begun = asyncio.Event(), []

    async def slow_body() -> AsyncIterator[bytes]:
        begun.append(True)
        await may_end.wait()
        yield ROW

    def post(body: AsyncIterator[bytes] | bytes) -> asyncio.Task[httpx.Response]:
        headers = {"Content-Type": "application/x-ndjson"}
        request = client.post(
            "/v1/batches", params={"pipeline": "letter"}, content=body, headers=headers
        )
        return asyncio.create_task(request)

    under_way = [post(slow_body()) for _ in range(MAX_AT_ONCE)]
    await until(lambda: len(begun) == MAX_AT_ONCE)
    refused = await post(ROW)
    may_end.set()

    assert_problem(refused, 503, "too-busy")
    assert refused.headers["Retry-After"] == "1"
    assert {answer.status_code for answer in await asyncio.gather(*under_way)} == {202}
    assert (await post(ROW)).status_code == 202


async def test_a_body_that_does_not_come_gives_its_place_back(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a few slow clients would keep all others away."""
    monkeypatch.setattr(deadline, "BODY_S", 0.05)
    never = asyncio.Event()

    async def endless_body() -> AsyncIterator[bytes]:
        yield ROW
        await never.wait()

    async def post(body: AsyncIterator[bytes] | bytes) -> httpx.Response:
        headers = {"Content-Type": "application/x-ndjson"}
        return await client.post(
            "/v1/batches", params={"pipeline": "letter"}, content=body, headers=headers
        )

    answers = await asyncio.gather(*(post(endless_body()) for _ in range(MAX_AT_ONCE)))

    for answer in answers:
        assert_problem(answer, 408, "body-too-slow")
    assert (await post(ROW)).status_code == 202
