"""Texts as clients get them: two processes, and clients that come and go while a run speaks."""

import asyncio
import json
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

import httpx
import pytest

from config.postgres import PostgresSettings
from services.core.live_text.client import create_client
from services.core.runs.models import Checkpoint, Lease
from services.core.runs.store import RunStore
from services.worker import live_text
from services.worker.live_text import TextSender
from tests.integration.api.conftest import gunicorn
from tests.integration.api.test_gunicorn import STEPS, claim, post_run
from tests.integration.fragile_redis import STATES, FragileRedis

CLIENTS = 10
WORDS = 60
CALLS = 2


class Told(NamedTuple):
    """One event of a stream."""

    seq: int | None
    kind: str
    data: Any


class Listener:
    """A client that puts texts together as the documentation says."""

    def __init__(self, client: httpx.Client, run_id: UUID, *, seed: int, restless: float) -> None:
        self._client = client
        self._path = f"/v1/runs/{run_id}/events"
        self._dice = random.Random(seed)  # noqa: S311 - only to be different, and the same again
        self._restless = restless
        self.events: list[Told] = []
        self.texts: dict[tuple[str, int, int], str] = {}
        self.told: list[str] = []
        """What came, in order: types of events, and steps of texts."""

    async def listen(self) -> None:
        """Follow the run to its end, leaving at random moments."""
        while not (self.events and self.events[-1].kind == "run.succeeded"):
            async for told in self._connection():
                self._take(told)
                if self._dice.random() < self._restless:
                    break
            await asyncio.sleep(self._dice.random() * 0.1)

    def _take(self, told: Told) -> None:
        if told.kind != "claude.delta":
            assert told.seq == len(self.events) + 1
            self.events.append(told)
            self.told.append(f"{told.kind} {told.data.get('step', '')}".strip())
            return
        assert told.seq is None
        name = (told.data["step"], told.data["attempt"], told.data["call"])
        offset, text = told.data["offset"], told.data["text"]
        assert offset in {0, len(self.texts.get(name, ""))}
        self.texts[name] = self.texts.get(name, "")[:offset] + text
        self.told.append(f"text {told.data['step']}")

    async def _connection(self) -> AsyncIterator[Told]:
        after = self.events[-1].seq if self.events else 0
        headers = dict(self._client.headers) | {"Last-Event-ID": str(after)}
        # There is no TLS here, so no certificates need be loaded: that takes longer than the rest.
        opened = httpx.AsyncClient(base_url=self._client.base_url, timeout=15, verify=False)  # noqa: S501 - see above
        async with opened, opened.stream("GET", self._path, headers=headers) as answer:
            fields: dict[str, str] = {}
            async for line in answer.aiter_lines():
                name, _, value = line.partition(": ")
                if line and name:
                    fields[name] = value
                elif not line and "event" in fields:
                    seq = int(fields["id"]) if "id" in fields else None
                    yield Told(seq, fields["event"], json.loads(fields["data"]))
                    fields = {}


async def speak(
    store: RunStore, sender: TextSender, lease: Lease, *, pause_s: float = 0
) -> dict[Any, str]:
    """Execute a run whose every step makes calls at once that say much; their texts."""
    texts: dict[Any, str] = {}
    attempt = lease.started_attempt
    for step, following in zip(STEPS, (*STEPS[1:], None), strict=True):
        assert attempt is not None
        tried = sender.open(lease.run_id, fence=lease.fence, step=step, attempt=attempt)

        async def call(number: int, step: str = step, take: Any = tried) -> None:
            on_text = take.new_call()
            words = [f"{step} {number} {word} é🌊\n" for word in range(WORDS)]
            for word in words:
                await on_text(word)
                await asyncio.sleep(0.01)
            texts[step, 1, number] = "".join(words)

        await asyncio.gather(*map(call, range(CALLS)))
        await tried.flush()
        attempt = await store.record_checkpoint(lease, Checkpoint(step, {}), next_step=following)
        tried.close()
        await asyncio.sleep(pause_s)
    await store.finish_run(lease, {})
    return texts


def assert_order(told: list[str]) -> None:
    """Each step's texts stand between its beginning and its end."""
    for step in STEPS:
        places = [number for number, what in enumerate(told) if what == f"text {step}"]
        assert told.index(f"step.started {step}") < min(places)
        assert max(places) < told.index(f"step.succeeded {step}")


@pytest.mark.parametrize(("seed", "restless"), [(1, 0), (2, 0.02), (3, 0.1), (4, 0.2)])
async def test_clients_that_come_and_go_have_exactly_the_text_in_the_end(
    client: httpx.Client,
    worker_store: RunStore,
    text_sender: TextSender,
    monkeypatch: pytest.MonkeyPatch,
    seed: int,
    restless: float,
) -> None:
    """Whenever they leave, and whichever process they come back to; events count 1, 2, 3, … as ever."""
    # On a busy machine those that leave most often are more than ten seconds behind.
    monkeypatch.setattr(live_text, "KEPT_AFTER_END_S", 60)
    run_id = post_run(client)
    listeners = [
        Listener(client, run_id, seed=100 * seed + number, restless=restless)
        for number in range(CLIENTS)
    ]
    async with asyncio.timeout(60):
        listening = [asyncio.create_task(listener.listen()) for listener in listeners]
        await asyncio.sleep(0.5)
        expected = await speak(worker_store, text_sender, await claim(worker_store, run_id))
        await asyncio.gather(*listening)

    for listener in listeners:
        assert expected == listener.texts
        assert_order(listener.told)


@pytest.mark.parametrize("state", ["dead", "frozen", "flushed", "full"])
async def test_events_come_whatever_redis_does_and_texts_come_back(
    fragile: FragileRedis,
    key: str,
    worker_store: RunStore,
    module_database: PostgresSettings,
    tmp_path: Path,
    state: str,
) -> None:
    """It is hurt while the first step speaks, and healed before the last one begins."""
    sender = TextSender(create_client(fragile.settings), db=fragile.settings.db)
    headers = {"Authorization": f"Bearer {key}"}
    with (
        gunicorn(tmp_path / "log", module_database, fragile.settings) as server,
        httpx.Client(base_url=server.url, headers=headers, timeout=15) as client,
    ):
        run_id = post_run(client)
        listeners = [Listener(client, run_id, seed=n, restless=0.01) for n in range(4)]
        listening = [asyncio.create_task(listener.listen()) for listener in listeners]
        await asyncio.sleep(0.5)
        speaking = asyncio.create_task(
            speak(worker_store, sender, await claim(worker_store, run_id), pause_s=2)
        )
        await asyncio.sleep(0.3)
        await asyncio.to_thread(STATES[state].hurt, fragile)
        await asyncio.sleep(3)
        await asyncio.to_thread(STATES[state].heal, fragile)
        async with asyncio.timeout(60):
            expected = await speaking
            await asyncio.gather(*listening)
    await sender.close()

    last = {name: text for name, text in expected.items() if name[0] == STEPS[-1]}
    for listener in listeners:
        kinds = [event.kind for event in listener.events]
        assert ["step.started", "step.succeeded"] * 3 == kinds[2:-1]
        assert last.items() <= listener.texts.items()
