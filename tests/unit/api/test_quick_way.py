"""Runs that are accepted before FastAPI sees them, as an API without spans does."""

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest
from fastapi import FastAPI

from services.api import deadline
from services.api.app import create_app
from services.api.dependencies import Dependencies
from services.api.routes.runs import _CreateRunRoute
from services.core import telemetry
from services.core.runs.keys import parse_key
from services.core.runs.models import NewRun
from tests.fakes.run_store import InMemoryRunStore
from tests.unit.api.conftest import MAX_BODY_BYTES, RecordingPublisher, add_key, client_of
from tests.unit.api.test_errors import assert_problem

LETTER = {"pipeline": "letter", "input": {"name": "Elena"}}


@pytest.fixture
async def app(
    dependencies: Dependencies, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[FastAPI]:
    """The API where nobody gets spans."""
    monkeypatch.setattr(telemetry, "is_recording", lambda: False)
    app = create_app(dependencies)
    async with app.router.lifespan_context(app):
        yield app


@pytest.fixture
async def key(store: InMemoryRunStore) -> str:
    """A key."""
    return await add_key(store)


@pytest.fixture
async def client(app: FastAPI, key: str) -> AsyncIterator[httpx.AsyncClient]:
    """A client whose key is known, since it has asked before."""
    async with client_of(app, key) as client:
        assert (await client.get("/v1/runs")).status_code == 200
        yield client


@pytest.fixture
def fastapi_is_out_of_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever comes to the route fails."""
    monkeypatch.setattr(_CreateRunRoute, "handle", None)
    monkeypatch.setattr(_CreateRunRoute, "answer_at_once", None)


@pytest.mark.usefixtures("fastapi_is_out_of_reach")
async def test_a_run_is_accepted_without_asking_whose_key_it_is(
    client: httpx.AsyncClient, store: InMemoryRunStore, publisher: RecordingPublisher
) -> None:
    """One statement, which checks the key as well; the run is hinted, and belongs to a trace."""
    store.statements.clear()
    answer = await client.post("/v1/runs", json=LETTER)

    assert answer.status_code == 202
    assert answer.headers["location"] == f"/v1/runs/{answer.json()['id']}"
    assert store.statements == ["accept_run"]
    assert [str(run_id) for run_id, _ in publisher.hints] == [answer.json()["id"]]
    assert answer.json()["trace_id"] is not None


@pytest.mark.usefixtures("fastapi_is_out_of_reach")
async def test_a_repeated_post_gives_the_same_run(client: httpx.AsyncClient) -> None:
    """As it is now."""
    first, again = [
        await client.post("/v1/runs", json=LETTER, headers={"Idempotency-Key": "k-1"})
        for _ in range(2)
    ]

    assert first.json() == again.json()


async def test_a_key_that_was_revoked_is_refused_at_once(
    client: httpx.AsyncClient, key: str, store: InMemoryRunStore
) -> None:
    """Though it was let in before; also where the run is there already."""
    headers = {"Idempotency-Key": "k-1"}
    before = await client.post("/v1/runs", json=LETTER, headers=headers)
    parsed = parse_key(key)
    assert parsed is not None
    await store.revoke_key(parsed[0])

    assert before.status_code == 202
    for answer in (
        await client.post("/v1/runs", json=LETTER),
        await client.post("/v1/runs", json=LETTER, headers=headers),
        await client.post("/v1/runs", json={}),
    ):
        assert_problem(answer, 401, "unauthorized")
    assert len(store.accepted) == 1


async def test_a_known_prefix_with_another_secret_is_refused(
    app: FastAPI, client: httpx.AsyncClient, key: str, store: InMemoryRunStore
) -> None:
    """What is remembered of a key is no way in."""
    async with client_of(app, key[:-4] + "AAAA") as forger:
        answer = await forger.post("/v1/runs", json=LETTER)

    assert_problem(answer, 401, "unauthorized")
    assert not store.accepted


async def test_the_first_post_of_a_key_is_accepted_as_well(app: FastAPI, key: str) -> None:
    """By the way that looks it up."""
    async with client_of(app, key) as client:
        assert (await client.post("/v1/runs", json=LETTER)).status_code == 202


async def test_what_is_wrong_is_told_as_ever(client: httpx.AsyncClient) -> None:
    """Field by field, by the way that knows."""
    answer = await client.post("/v1/runs", json=LETTER | {"input": {"name": ""}})

    assert_problem(answer, 422, "invalid-request")
    assert [error["field"] for error in answer.json()["errors"]] == ["/input/name"]


async def test_a_body_that_is_too_large_is_refused(client: httpx.AsyncClient) -> None:
    """Whether or not its size is announced."""

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield b" " * (MAX_BODY_BYTES // 2)

    headers = {"Content-Type": "application/json"}
    for content in (b" " * (MAX_BODY_BYTES + 1), pieces()):
        answer = await client.post("/v1/runs", content=content, headers=headers)
        assert_problem(answer, 413, "body-too-large")


async def test_a_body_in_pieces_is_put_together(client: httpx.AsyncClient) -> None:
    """The first one is not lost on the way."""

    async def pieces() -> AsyncIterator[bytes]:
        yield b'{"pipeline": "letter", "input"'
        yield b': {"name": "Elena"}}'

    headers = {"Content-Type": "application/json"}
    answer = await client.post("/v1/runs", content=pieces(), headers=headers)

    assert answer.status_code == 202
    assert answer.json()["input"] == {"name": "Elena"}


async def test_a_body_that_does_not_come_is_not_waited_for(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who sends nothing holds no place for ever."""
    monkeypatch.setattr(deadline, "REQUEST_S", 0.05)
    monkeypatch.setattr(deadline, "BODY_S", 0.05)
    never = asyncio.Event()

    async def nothing() -> AsyncIterator[bytes]:
        await never.wait()
        yield b""

    headers = {"Content-Type": "application/json"}
    answer = await client.post("/v1/runs", content=nothing(), headers=headers)

    assert_problem(answer, 408, "body-too-slow")


async def test_a_silent_record_is_a_503(
    client: httpx.AsyncClient, store: InMemoryRunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within the time that a client is promised."""
    monkeypatch.setattr(deadline, "REQUEST_S", 0.05)
    monkeypatch.setattr(deadline, "SILENCE_S", 0.0)
    never = asyncio.Event()

    async def hang(_: NewRun) -> None:
        await never.wait()

    store.accept = hang  # type: ignore[assignment, method-assign]  # a frozen PostgreSQL
    answer = await client.post("/v1/runs", json=LETTER)

    assert_problem(answer, 503, "record-unavailable")
    assert int(answer.headers["retry-after"]) >= 1


@pytest.mark.parametrize("media_type", ["text/plain", ""])
async def test_another_media_type_is_refused(client: httpx.AsyncClient, media_type: str) -> None:
    """As ever."""
    headers = {"Content-Type": media_type}
    answer = await client.post("/v1/runs", content=b"{}", headers=headers)

    assert_problem(answer, 415, "unsupported-media-type")
