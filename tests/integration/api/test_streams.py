"""Streams of a run that fails, is replayed and succeeds: two processes, clients that come and go."""

import asyncio
import random
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import httpx
import pytest

from services.core.runs.models import Checkpoint, Failure
from services.core.runs.states import FailureReason
from services.core.runs.store import RunStore
from tests.integration.api.test_gunicorn import STEPS, claim, post_run, read, watching

Event = tuple[int, str, Any]
CLIENTS = 8
STEP_S = 0.3
FAILURE = Failure(FailureReason.PERMANENT, STEPS[1], "It cannot be done.", 1)


async def do_step(store: RunStore, run_id: UUID, step: str, *, fails: bool = False) -> None:
    """What a worker does with one step of a run: begin it, and give it back or fail."""
    lease = await claim(store, run_id)
    await store.start_step(lease, step)
    await asyncio.sleep(STEP_S)
    if fails:
        await store.fail_run(lease, FAILURE)
        return
    await store.record_checkpoint(lease, Checkpoint(step, {"n": 1}))
    if step == STEPS[-1]:
        await store.finish_run(lease, {})
    else:
        await store.release_run(lease)


async def replay(client: httpx.Client, run_id: UUID, **body: str) -> None:
    """Replay a run."""
    answer = await asyncio.to_thread(client.post, f"/v1/runs/{run_id}/replay", json=body)
    assert answer.status_code == 202, answer.text


async def live_twice(client: httpx.Client, store: RunStore, run_id: UUID) -> None:
    """Fail in the second step, go on there, be cancelled, and succeed at last."""
    await do_step(store, run_id, STEPS[0])
    await do_step(store, run_id, STEPS[1], fails=True)
    await asyncio.sleep(0.3)
    await replay(client, run_id)
    await asyncio.to_thread(client.post, f"/v1/runs/{run_id}/cancel")
    await replay(client, run_id, from_step=STEPS[1])
    for step in STEPS[1:]:
        await do_step(store, run_id, step)


async def pieces(client: httpx.Client, run_id: UUID, seed: int) -> AsyncIterator[Event]:
    """The events of a run as a restless client gets them: it leaves after a few, and comes back to any process."""
    chance = random.Random(seed)  # noqa: S311 - only to be different, and the same again
    last: Event | None = None
    while True:
        async for event in piece(client, run_id, after=last[0] if last else 0):
            yield event
            last = event
            if chance.random() < 0.2:
                break
        if last and last[1] == "run.succeeded":
            return
        await asyncio.sleep(chance.random() * 0.1)


async def piece(client: httpx.Client, run_id: UUID, *, after: int) -> AsyncIterator[Event]:
    """The events of one connection; none if it is told that the run has ended."""
    headers = dict(client.headers) | {"Last-Event-ID": str(after)}
    fields: dict[str, str] = {}
    # There is no TLS here, so no certificates need be loaded: that takes longer than the rest.
    opened = httpx.AsyncClient(base_url=client.base_url, timeout=15, verify=False)  # noqa: S501 - see above
    stream = opened.stream("GET", f"/v1/runs/{run_id}/events", headers=headers)
    async with opened, stream as answer:
        assert answer.status_code in (200, 204)
        async for line in answer.aiter_lines():
            name, _, value = line.partition(": ")
            if line and name:
                fields[name] = value
            elif not line:
                if "id" in fields:
                    yield int(fields["id"]), fields["event"], fields["data"]
                fields = {}


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_restless_clients_miss_and_repeat_nothing(
    client: httpx.Client, worker_store: RunStore, seed: int
) -> None:
    """Whenever they leave, and whichever process they come back to, also in the middle of a replay."""
    run_id = post_run(client)

    async def follow(number: int) -> list[Event]:
        return [event async for event in pieces(client, run_id, 100 * seed + number)]

    async with asyncio.timeout(60):
        followers = [asyncio.create_task(follow(number)) for number in range(CLIENTS)]
        await live_twice(client, worker_store, run_id)
        seen = await asyncio.gather(*followers)

    kinds = [kind for _, kind, _ in seen[0]]
    assert kinds.count("run.queued") == 3
    assert [kinds.count(f"run.{end}") for end in ("failed", "cancelled", "succeeded")] == [1, 1, 1]
    for events in seen:
        assert [seq for seq, _, _ in events] == list(range(1, len(kinds) + 1))
        assert events == seen[0]


async def test_a_stream_that_stays_goes_on_or_ends_and_never_hangs(
    client: httpx.Client, worker_store: RunStore
) -> None:
    """Who is connected when the run ends gets its end; a replay right then may or may not come along."""
    run_id = post_run(client)

    async def stay() -> list[Event]:
        async with watching(client, run_id) as answer:
            return await read(answer)

    streams = [asyncio.create_task(stay()) for _ in range(CLIENTS)]
    await asyncio.sleep(0.3)
    for _ in range(5):
        await asyncio.to_thread(client.post, f"/v1/runs/{run_id}/cancel")
        await replay(client, run_id)
    await asyncio.to_thread(client.post, f"/v1/runs/{run_id}/cancel")

    async with asyncio.timeout(5):
        seen = await asyncio.gather(*streams)

    whole = await stay()
    assert [kind for _, kind, _ in whole] == ["run.queued", "run.cancelled"] * 6
    for events in seen:
        assert events == whole[: len(events)]
        assert events[-1][1] == "run.cancelled"
    assert [event async for event in piece(client, run_id, after=12)] == []
