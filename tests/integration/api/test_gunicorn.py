"""The deployed API: two processes behind one port, and their end."""

import asyncio
import json
import re
import signal
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import httpx
import pytest
import redis
from uuid_utils.compat import uuid7

from config.postgres import PostgresSettings
from config.redis import RedisSettings
from services.api.http_metrics import TELL_AFTER_S
from services.core.runs.models import Checkpoint, Lease, NewEmail, shape_of
from services.core.runs.store import RunStore
from services.worker.live_text import TextSender
from tests.integration.api.conftest import RUN, Gunicorn, run_keys
from tests.integration.core.runs.pieces import COST, USAGE, pay

STEPS = ("parse_template", "research", "compose_email")
SHAPE = shape_of("outreach_email", STEPS)


def post_run(client: httpx.Client, **changes: Any) -> UUID:
    """Post a run that must be accepted."""
    answer = client.post("/v1/runs", json=RUN | changes)
    assert answer.status_code == 202, answer.text
    return UUID(answer.json()["id"])


async def get(client: httpx.Client, path: str) -> Any:
    """Read something that must be there."""
    answer = await asyncio.to_thread(client.get, path)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def claim(store: RunStore, run_id: UUID) -> Lease:
    """Take one run as a worker does; others are taken along and left."""
    for lease in await store.claim_due_runs(owner="test", limit=100, shapes=(SHAPE,)):
        if lease.run_id == run_id:
            return lease
    raise AssertionError(f"{run_id} is not due")


async def execute(store: RunStore, lease: Lease, *, pause_s: float = 0) -> UUID:
    """Do what a worker does with a run; the id of its email."""
    for step in STEPS:
        await store.start_step(lease, step)
        await asyncio.sleep(pause_s)
        await pay(store, lease, step)
        await store.record_checkpoint(lease, Checkpoint(step, {"n": 1}))
    email = NewEmail(uuid7(), "general", "Hello", "Dear", {"simulated": True, "round": 2})
    await store.finish_run(lease, {"email_id": str(email.id)}, email)
    return email.id


@asynccontextmanager
async def watching(
    client: httpx.Client, run_id: UUID, *, after: int | None = None
) -> AsyncIterator[httpx.Response]:
    """An open stream, on a connection of its own, so that any process may have it."""
    headers = dict(client.headers) | ({"Last-Event-ID": str(after)} if after else {})
    async with (
        httpx.AsyncClient(base_url=client.base_url, timeout=15) as http,
        http.stream("GET", f"/v1/runs/{run_id}/events", headers=headers) as answer,
    ):
        assert answer.status_code == 200
        yield answer


async def read(
    answer: httpx.Response, events: list[tuple[int, str, Any]] | None = None
) -> list[tuple[int, str, Any]]:
    """(id, type, data) of every event of the record to the end of the stream, also given as they come."""
    events = [] if events is None else events
    fields: dict[str, str] = {}
    async for line in answer.aiter_lines():
        name, _, value = line.partition(": ")
        if line and name:
            fields[name] = value
        elif not line:
            if "id" in fields:
                events.append((int(fields["id"]), fields["event"], json.loads(fields["data"])))
            fields = {}
    return events


async def read_run(
    client: httpx.Client,
    run_id: UUID,
    after: int | None = None,
    events: list[Any] | None = None,
) -> list[Any]:
    """Every event of a run."""
    async with watching(client, run_id, after=after) as answer:
        return await read(answer, events)


async def test_a_run_is_watched_through_every_process(
    client: httpx.Client, worker_store: RunStore
) -> None:
    """Twenty watchers over both processes see the same events, each once and in order."""
    run_id = post_run(client)
    watchers = [asyncio.create_task(read_run(client, run_id)) for _ in range(20)]
    await asyncio.sleep(0.3)
    await execute(worker_store, await claim(worker_store, run_id), pause_s=0.1)

    async with asyncio.timeout(10):
        seen = await asyncio.gather(*watchers)

    kinds = [kind for _, kind, _ in seen[0]]
    assert [seq for seq, _, _ in seen[0]] == list(range(1, len(kinds) + 1))
    assert kinds[:3] == ["run.queued", "run.started", "step.started"]
    assert kinds[-1] == "run.succeeded"
    assert all(events == seen[0] for events in seen)


async def test_a_watcher_resumes_in_another_process(
    client: httpx.Client, worker_store: RunStore
) -> None:
    """After every possible event, nothing is missed or repeated."""
    run_id = post_run(client)
    await execute(worker_store, await claim(worker_store, run_id))
    whole = await read_run(client, run_id)

    for seq in range(1, len(whole)):
        assert whole[seq:] == await read_run(client, run_id, after=seq)


async def test_an_idempotent_post_meets_any_process(client: httpx.Client, key: str) -> None:
    """Twenty at once, over both processes: one run."""
    headers = {"Authorization": f"Bearer {key}", "Idempotency-Key": "many"}

    async def post() -> str:
        async with httpx.AsyncClient(base_url=client.base_url, timeout=15) as http:
            answer = await http.post("/v1/runs", json=RUN, headers=headers)
            return str(answer.json()["id"])

    assert len(set(await asyncio.gather(*(post() for _ in range(20))))) == 1


async def test_a_finished_run_and_its_email_are_as_documented(
    client: httpx.Client, worker_store: RunStore
) -> None:
    """What the worker wrote comes out of the API."""
    run_id = post_run(client, metadata={"campaign": "frühling 🌊"}, budget_usd=0.5)
    email_id = await execute(worker_store, await claim(worker_store, run_id))

    run = await get(client, f"/v1/runs/{run_id}")
    email = await get(client, f"/v1/emails/{email_id}")
    filters = f"run_id={run_id}&metadata.simulated=true&metadata.round"
    found = await get(client, f"/v1/emails?{filters}=2")
    not_found = await get(client, f"/v1/emails?{filters}=3")

    assert run["state"] == "succeeded"
    assert (run["cost_usd"], run["budget_usd"]) == (pytest.approx(float(len(STEPS) * COST)), 0.5)
    assert run["usage"]["output_tokens"] == len(STEPS) * USAGE.output_tokens
    assert run["metadata"] == {"campaign": "frühling 🌊"}
    assert [step["name"] for step in run["steps"]] == list(STEPS)
    assert run["created_at"].endswith("Z")
    assert re.fullmatch("[0-9a-f]{32}", run["trace_id"])
    assert email["run_id"] == str(run_id)
    assert [email] == found["items"]
    assert not_found["items"] == []


def test_an_idempotency_key_with_another_body_is_422(client: httpx.Client) -> None:
    """Decided by the record."""
    headers = {"Idempotency-Key": "two-bodies"}
    client.post("/v1/runs", json=RUN, headers=headers)

    other = client.post("/v1/runs", json=RUN | {"priority": 1}, headers=headers)

    assert other.status_code == 422
    assert other.json()["type"].endswith(":idempotency-conflict")


def test_runs_come_page_by_page(client: httpx.Client) -> None:
    """With the record's own cursors."""
    posted = [str(post_run(client)) for _ in range(5)]
    listed: list[str] = []
    params: dict[str, Any] = {"limit": 2}
    while len(listed) < 5:
        page = client.get("/v1/runs", params=params).json()
        listed += [run["id"] for run in page["items"]]
        params["cursor"] = page["next_cursor"]

    assert posted[::-1] == listed[:5]


@pytest.mark.parametrize("cursor", ["x", "AAAA", "%00", "é", "LTE", "a" * 500])
@pytest.mark.parametrize("kind", ["runs", "emails"])
def test_a_bad_cursor_is_422(client: httpx.Client, kind: str, cursor: str) -> None:
    """Never 500, whatever it decodes to."""
    assert client.get(f"/v1/{kind}?cursor={cursor}").status_code == 422


def test_a_cancelled_run_ends_its_stream(client: httpx.Client) -> None:
    """202, then the final event."""
    run_id = post_run(client)
    answer = client.post(f"/v1/runs/{run_id}/cancel")

    events = client.get(f"/v1/runs/{run_id}/events").text
    assert (answer.status_code, answer.json()["state"]) == (202, "cancelled")
    assert "event: run.cancelled" in events
    assert (
        client.get(f"/v1/runs/{run_id}/events", headers={"Last-Event-ID": "2"}).status_code == 204
    )


def test_accepted_runs_are_hinted(client: httpx.Client, redis_settings: RedisSettings) -> None:
    """A message wakes the workers; nobody consumes it here."""
    with redis.Redis.from_url(redis_settings.broker_url) as broker:
        broker.delete("runs")
        post_run(client)
        deadline = time.monotonic() + 5
        while not broker.llen("runs") and time.monotonic() < deadline:
            time.sleep(0.05)

        assert broker.llen("runs") == 1


def test_too_large_bodies_are_413(client: httpx.Client) -> None:
    """Announced or in chunks, through a real server."""
    blob = b'{"pipeline": "' + b"x" * 10_000_000 + b'"}'
    chunks = (blob[start : start + 65_536] for start in range(0, len(blob), 65_536))
    headers = {"Content-Type": "application/json"}

    for content in (blob, chunks):
        answer = client.post("/v1/runs", content=content, headers=headers)
        assert answer.status_code == 413
        assert answer.headers["content-type"] == "application/problem+json"


def test_figures_are_summed_over_the_processes(server: Gunicorn) -> None:
    """Whichever process answers the scrape."""
    requests = 30
    for _ in range(requests):
        assert httpx.get(f"{server.url}/v1/pipelines").status_code == 401  # a connection each

    counted = (
        r'penstock_http_requests_total\{method="GET",route="/v1/pipelines",status="401"\} (\S+)'
    )
    time.sleep(3 * TELL_AFTER_S)  # until then each process keeps its figures to itself
    seen = set()
    for _ in range(10):
        found = re.search(counted, httpx.get(f"{server.url}/metrics").text)
        assert found
        seen.add(float(found[1]))

    assert seen == {requests}


def test_health_shows_real_parts(client: httpx.Client) -> None:
    """PostgreSQL and Redis answer; the rest is not running here."""
    health = client.get("/health").json()

    assert (health["postgres"]["status"], health["redis"]["status"]) == ("up", "up")
    assert health["status"] == "degraded"


def test_what_the_server_itself_logs_is_json_too(server: Gunicorn) -> None:
    """One form for all lines of a container."""
    lines = [json.loads(line) for line in server.log.read_text().splitlines()]

    assert all(line["message"] for line in lines)
    assert "uvicorn.access" not in {line["logger"] for line in lines}


def test_the_server_does_not_tell_what_it_is(client: httpx.Client) -> None:
    """No Server header."""
    assert "server" not in client.get("/livez").headers


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
async def test_open_streams_do_not_hold_up_a_stop(
    start_server: Callable[..., Gunicorn], key: str, signum: int
) -> None:
    """Each stream ends cleanly with what it has, and gunicorn exits with 0 at once."""
    server = start_server(API_SHUTDOWN_GRACE_S="15")
    headers = {"Authorization": f"Bearer {key}"}
    with httpx.Client(base_url=server.url, headers=headers, timeout=15) as client:
        run_id = post_run(client)
        seen: list[list[Any]] = [[] for _ in range(10)]
        watchers = [asyncio.create_task(read_run(client, run_id, events=events)) for events in seen]
        async with asyncio.timeout(15):
            while not all(seen):
                await asyncio.sleep(0.05)

        took_s = await asyncio.to_thread(server.stop, signum)
        await asyncio.gather(*watchers)

    assert [["run.queued"]] * 10 == [[kind for _, kind, _ in events] for events in seen]
    assert server.process.returncode == 0, server.log.read_text()
    assert took_s < 5, server.log.read_text()
    assert "Traceback" not in server.log.read_text()


async def test_a_client_that_does_not_read_cannot_hold_up_a_stop(
    start_server: Callable[..., Gunicorn],
    key: str,
    worker_store: RunStore,
    text_sender: TextSender,
) -> None:
    """Its connection is cut before the grace is over, and the process still ends in order."""
    server = start_server(API_SHUTDOWN_GRACE_S="5")
    host, _, port = server.url.removeprefix("http://").partition(":")
    headers = {"Authorization": f"Bearer {key}"}
    with httpx.Client(base_url=server.url, headers=headers, timeout=15) as client:
        run_id = post_run(client)
        lease = await claim(worker_store, run_id)
        await worker_store.start_step(lease, STEPS[0])
        tried = text_sender.open(run_id, fence=lease.fence, step=STEPS[0], attempt=1)
        for _ in range(40):
            await tried.new_call()("x" * 200_000)
        with socket.create_connection((host, int(port))) as deaf:
            deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            request = f"GET /v1/runs/{run_id}/events HTTP/1.1\r\nHost: x\r\n"
            deaf.sendall(f"{request}Authorization: Bearer {key}\r\n\r\n".encode())
            await asyncio.sleep(1)

            took_s = await asyncio.to_thread(server.stop)

    assert took_s < 6
    assert server.process.returncode == 0, server.log.read_text()


def test_processes_do_not_outlive_their_master(start_server: Callable[..., Gunicorn]) -> None:
    """After a SIGKILL of the master the port is free again, so that a restart works."""
    server = start_server()
    server.process.kill()
    server.process.wait(timeout=5)

    deadline = time.monotonic() + 15
    while time.monotonic() < deadline:
        try:
            httpx.get(f"{server.url}/livez", timeout=5)
        except httpx.ConnectError:
            return
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    raise AssertionError(server.log.read_text())


def test_a_revoked_key_is_refused(
    client: httpx.Client, server: Gunicorn, module_database: PostgresSettings
) -> None:
    """From the next request on, in every process."""
    made: subprocess.CompletedProcess[str] = run_keys(module_database, "create", "--name", "gone")
    text = made.stdout.strip()
    headers = {"Authorization": f"Bearer {text}"}
    before = httpx.get(f"{server.url}/v1/runs", headers=headers)
    revoked = run_keys(module_database, "revoke", text.split("_")[1])
    after = {httpx.get(f"{server.url}/v1/runs", headers=headers).status_code for _ in range(8)}
    listed = run_keys(module_database, "list").stdout

    assert (before.status_code, before.json()["items"]) == (200, [])
    assert (revoked.returncode, after) == (0, {401})
    assert f"{text.split('_')[1]}  revoked  gone" in listed
    assert text not in listed
