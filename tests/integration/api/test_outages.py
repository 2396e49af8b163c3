"""PostgreSQL or Redis away, frozen or full: what clients are told, how soon, and how all goes on by itself."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import httpx
import pytest

from config.postgres import PostgresSettings
from config.redis import RedisSettings
from services.core.runs.store import RunStore
from tests.integration.api.conftest import RUN, Gunicorn, gunicorn, lose_disk
from tests.integration.fragile_redis import FragileRedis
from tests.integration.proxy import TcpProxy

ANSWER_S = 2.0
"""Within this time a client is told that the record is away, and all is well again once it is back."""
HEALTH_S = 2.5
ACCEPT_S = 1.0
"""Within this time a run is accepted, whatever Redis does."""
AT_ONCE = 50
Ask = Callable[[httpx.AsyncClient, UUID], Coroutine[Any, Any, httpx.Response]]

REQUESTS: dict[str, Ask] = {
    "post": lambda http, _: http.post("/v1/runs", json=RUN),
    "get": lambda http, run_id: http.get(f"/v1/runs/{run_id}"),
    "list": lambda http, _: http.get("/v1/runs"),
    "cancel": lambda http, run_id: http.post(f"/v1/runs/{run_id}/cancel"),
    "replay": lambda http, run_id: http.post(f"/v1/runs/{run_id}/replay"),
    "history": lambda http, run_id: http.get(f"/v1/runs/{run_id}/history"),
    "dead letters": lambda http, _: http.get("/v1/dead-letters"),
    "replay many": lambda http, _: http.post("/v1/dead-letters/replay", json={"reason": "crashed"}),
    "emails": lambda http, _: http.get("/v1/emails"),
    "watch": lambda http, run_id: http.get(f"/v1/runs/{run_id}/events"),
}
OPEN_PATHS = ("/readyz", "/health", "/metrics")


@dataclass
class FarApi:
    """A running API that reaches PostgreSQL through a proxy."""

    server: Gunicorn
    proxy: TcpProxy
    http: httpx.AsyncClient

    async def absent(self, how: str) -> None:
        """Let PostgreSQL go away."""
        if how == "refused":
            await self.proxy.refuse()
        else:
            self.proxy.freeze()

    async def back(self, how: str) -> None:
        """Let it come back."""
        if how == "refused":
            await self.proxy.accept()
        else:
            self.proxy.thaw()


def client_of(server: Gunicorn, key: str) -> httpx.AsyncClient:
    """A client with a key, and with connections enough for AT_ONCE requests."""
    return httpx.AsyncClient(
        base_url=server.url,
        headers={"Authorization": f"Bearer {key}"},
        timeout=10,
        verify=False,  # noqa: S501 - there is no TLS here, so no certificates need be loaded
    )


@asynccontextmanager
async def far_api(
    log: Path, postgres: PostgresSettings, redis: RedisSettings, key: str, **variables: str
) -> AsyncIterator[FarApi]:
    """Start an API behind a proxy of this loop, so a thread waits for its start and its end."""
    async with AsyncExitStack() as stack:
        proxy = await stack.enter_async_context(TcpProxy(postgres.host, postgres.port))
        settings = postgres.model_copy(update={"host": "127.0.0.1", "port": proxy.port})
        threads = ExitStack()
        stack.push_async_callback(asyncio.to_thread, threads.close)
        server = await asyncio.to_thread(
            threads.enter_context, gunicorn(log, settings, redis, **variables)
        )
        http = await stack.enter_async_context(client_of(server, key))
        stack.callback(proxy.thaw)
        yield FarApi(server, proxy, http)


@pytest.fixture
async def api(
    tmp_path: Path, module_database: PostgresSettings, redis_settings: RedisSettings, key: str
) -> AsyncIterator[FarApi]:
    """One of a test's own."""
    async with far_api(tmp_path / "log", module_database, redis_settings, key) as api:
        yield api


async def post(http: httpx.AsyncClient, **headers: str) -> UUID:
    """Post a run that must be accepted."""
    answer = await http.post("/v1/runs", json=RUN, headers=headers)
    assert answer.status_code == 202, answer.text
    return UUID(answer.json()["id"])


@asynccontextmanager
async def connection_to(postgres: PostgresSettings) -> AsyncIterator["asyncpg.Connection"]:
    """A connection past the API, for whoever disturbs it."""
    assert postgres.password is not None
    connection = await asyncpg.connect(
        host=postgres.host,
        port=postgres.port,
        user=postgres.user,
        password=postgres.password.get_secret_value(),
        database=postgres.db,
    )
    try:
        yield connection
    finally:
        await connection.close()


async def timed(answer: Coroutine[Any, Any, httpx.Response]) -> tuple[httpx.Response, float]:
    """An answer, and the seconds that it took."""
    began_s = time.monotonic()
    return await answer, time.monotonic() - began_s


async def ask_all(http: httpx.AsyncClient, run_id: UUID) -> list[tuple[httpx.Response, float]]:
    """Every kind of request, AT_ONCE of them at once."""
    kinds = list(REQUESTS.values())
    asked = (timed(kinds[number % len(kinds)](http, run_id)) for number in range(AT_ONCE))
    return await asyncio.gather(*asked)


def assert_refused(answers: list[tuple[httpx.Response, float]], *, name: str) -> None:
    """Each says 503 and when to come back, in time."""
    for answer, took_s in answers:
        assert answer.status_code == 503, (answer.request.url, answer.text)
        assert answer.json()["type"].endswith(f":{name}")
        assert int(answer.headers["retry-after"]) >= 1
        assert took_s < ANSWER_S, (answer.request.method, answer.request.url)


async def until_accepted(http: httpx.AsyncClient) -> float:
    """Post until a run is accepted; the seconds that took."""
    began_s = time.monotonic()
    while (await http.post("/v1/runs", json=RUN)).status_code != 202:
        assert time.monotonic() - began_s < 10
    return time.monotonic() - began_s


@pytest.mark.parametrize("how", ["refused", "frozen"])
async def test_without_postgresql_each_request_is_refused_in_time(api: FarApi, how: str) -> None:
    """Fifty at once, of every kind, twice; then all is well by itself."""
    run_id = await post(api.http)
    await asyncio.gather(*(REQUESTS["list"](api.http, run_id) for _ in range(AT_ONCE)))

    await api.absent(how)
    for _ in range(2):
        assert_refused(await ask_all(api.http, run_id), name="record-unavailable")
    await api.back(how)

    assert await until_accepted(api.http) < ANSWER_S
    for name, ask in REQUESTS.items():
        if name == "watch":  # it ends with the run
            await api.http.post(f"/v1/runs/{run_id}/cancel")
        answer, took_s = await timed(ask(api.http, run_id))
        assert answer.is_success or answer.status_code == 409, (name, answer.text)
        assert took_s < ANSWER_S


@pytest.mark.parametrize("how", ["refused", "frozen"])
async def test_without_postgresql_machines_are_answered_in_time(api: FarApi, how: str) -> None:
    """Who asks how things are is not held up by how they are."""
    await api.absent(how)

    answers = await asyncio.gather(*(timed(api.http.get(path)) for path in OPEN_PATHS))

    (ready, _), (health, _), (metrics, _) = answers
    assert max(took_s for _, took_s in answers) < HEALTH_S
    assert ready.status_code == 503
    assert health.json()["postgres"]["status"] == "down"
    assert "penstock_record_up 0.0" in metrics.text


async def test_an_exhausted_pool_is_an_absent_record(
    tmp_path: Path, module_database: PostgresSettings, redis_settings: RedisSettings, key: str
) -> None:
    """Whoever waits for a connection is told in time, too; the connections come back by themselves."""
    async with far_api(
        tmp_path / "log", module_database, redis_settings, key, POSTGRES_POOL_SIZE="1"
    ) as api:
        run_id = await post(api.http)
        async with connection_to(module_database) as blocker, blocker.transaction():
            await blocker.execute("LOCK TABLE api_keys, runs, events, emails")
            assert_refused(await ask_all(api.http, run_id), name="record-unavailable")

        assert await until_accepted(api.http) < ANSWER_S


async def test_nothing_that_was_accepted_is_missing_after_a_freeze(
    api: FarApi, worker_store: RunStore, key: str
) -> None:
    """Twenty clients post on through two freezes, repeat what was refused, and end with one run per order."""
    refused: list[float] = []

    async def order(http: httpx.AsyncClient, name: str) -> UUID:
        while True:
            asking = timed(http.post("/v1/runs", json=RUN, headers={"Idempotency-Key": name}))
            answer, took_s = await asking
            assert took_s < ANSWER_S
            if answer.status_code == 202:
                return UUID(answer.json()["id"])
            assert answer.status_code == 503, answer.text
            refused.append(took_s)
            await asyncio.sleep(0.1)

    async def be_a_client(number: int) -> list[UUID]:
        async with client_of(api.server, key) as http:
            return [await paced(order(http, f"order-{number}-{count}")) for count in range(20)]

    async def paced(ordering: Awaitable[UUID]) -> UUID:
        await asyncio.sleep(0.1)  # else all are accepted before the first freeze
        return await ordering

    clients = [asyncio.create_task(be_a_client(number)) for number in range(20)]
    for _ in range(2):
        await asyncio.sleep(0.5)
        api.proxy.freeze()
        await asyncio.sleep(2.5)
        api.proxy.thaw()
    accepted = [run_id for orders in await asyncio.gather(*clients) for run_id in orders]

    owner = await worker_store.find_key(key.split("_")[1])
    assert owner is not None
    stored = [(await worker_store.get_run(owner.id, run_id)).id for run_id in accepted]
    assert refused
    assert len(set(accepted)) == len(accepted) == 400
    assert accepted == stored


FILL_DISK = """
    CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = '53100'; END $$;
    CREATE TRIGGER full_disk BEFORE INSERT ON runs EXECUTE FUNCTION refuse();
"""
"""Lets PostgreSQL say what it says when its disk is full."""
FREE_DISK = "DROP TRIGGER full_disk ON runs; DROP FUNCTION refuse"


async def test_a_full_disk_of_postgresql_is_said_to_be_one(
    api: FarApi, module_database: PostgresSettings
) -> None:
    """To who posts and in the health; reading goes on, and all is well once there is room."""
    run_id = await post(api.http)
    async with connection_to(module_database) as admin:
        await admin.execute(FILL_DISK)
        try:
            posts = (timed(api.http.post("/v1/runs", json=RUN)) for _ in range(AT_ONCE))
            assert_refused(await asyncio.gather(*posts), name="record-full")
            health = (await api.http.get("/health")).json()
            read = await api.http.get(f"/v1/runs/{run_id}")
        finally:
            await admin.execute(FREE_DISK)

    assert (health["status"], health["postgres"]["status"]) == ("degraded", "full")
    assert read.status_code == 200
    assert await until_accepted(api.http) < ANSWER_S


async def test_whatever_becomes_of_redis_runs_are_accepted_at_once(
    tmp_path: Path, module_database: PostgresSettings, key: str
) -> None:
    """Frozen, full, unable to save or dead: 202 all the same, and the health says which."""
    folder = tmp_path / "data"
    folder.mkdir()
    redis = FragileRedis()
    redis.start("--dir", str(folder), "--save", "3600 1")
    try:
        # Whoever waited for Redis would wait longer than a run's acceptance may take.
        settings = redis.settings.model_copy(
            update={"socket_timeout_s": 1.5, "connect_timeout_s": 1.5}
        )
        async with far_api(tmp_path / "log", module_database, settings, key) as api:
            assert await post_and_ask(api) == ("up", None)

            redis.freeze()
            status, error = await post_and_ask(api)
            assert (status, error) == ("down", "TimeoutError")
            redis.thaw()

            with redis.client() as admin:
                admin.config_set("maxmemory", "1mb")
                status, error = await post_and_ask(api)
                assert (status, "memory limit" in str(error)) == ("full", True)
                admin.config_set("maxmemory", "0")
                assert await post_and_ask(api) == ("up", None)

                await lose_disk(redis, folder)
                status, error = await post_and_ask(api)
                assert (status, "to disk" in str(error)) == ("full", True)

            redis.kill()
            status, error = await post_and_ask(api)
            assert (status, error) == ("down", "ConnectionError")
    finally:
        redis.kill()


async def post_and_ask(api: FarApi) -> tuple[str, str | None]:
    """Post runs, each accepted within a second; then what the health says of Redis."""
    for answer, took_s in await asyncio.gather(
        *(timed(api.http.post("/v1/runs", json=RUN)) for _ in range(5))
    ):
        assert answer.status_code == 202, answer.text
        assert took_s < ACCEPT_S
    part = (await api.http.get("/health")).json()["redis"]
    return part["status"], part["error"]
