"""Calls of runs in batch mode, with a real record and the Message Batches API over HTTP."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from decimal import Decimal
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from config.anthropic import AnthropicSettings
from config.postgres import PostgresSettings
from services.core.claude.message_batches import MessageBatches
from services.core.runs.message_batches import BatchLimits
from services.core.runs.models import ApiKey, CallOpening, Lease, NewRun
from services.core.runs.states import CallState, RunMode, RunState
from services.core.runs.store import RunStore
from services.worker.batch_courier import MAX_TRIES, BatchCourier, Batching
from tests.fakes.batches_api import MODEL, BatchesApi, Json, errored, serve_batches, succeeded
from tests.integration.conftest import StoreFactory
from tests.integration.worker.celery_process import celery_process
from tests.integration.worker.lab import Lab

SHAPE = ("ask",)
WORST_USD = Decimal("0.5")
# claude-sonnet-5-5: 2 and 10 US dollars per million tokens; a message batch costs half.
HALF_PRICE_USD = (1000 * Decimal(2) + 100 * Decimal(10)) / 1_000_000 / 2
LIMITS = BatchLimits(max_calls=100, max_bytes=1_000_000, linger_s=0)


class Hints:
    """A publisher that keeps its hints."""

    def __init__(self) -> None:
        self.given: list[UUID] = []

    def hint(self, run_id: UUID, *, is_isolated: bool = False) -> None:
        self.given.append(run_id)


@dataclass
class Scene:
    """A record, Claude, and couriers between them."""

    store: RunStore
    key: ApiKey
    api: BatchesApi
    database: PostgresSettings
    hints: Hints

    def courier(self, claude: MessageBatches | None = None, **limits: Any) -> BatchCourier:
        """A courier, as one more process would have it."""
        claude = claude or MessageBatches(AnthropicSettings(simulator_url=self.api.url))
        batching = Batching(claude, replace(LIMITS, **limits), doubt_s=0.0)
        return BatchCourier(self.store, batching, self.hints)

    async def park_run(self, *prompts: str) -> UUID:
        """A run in batch mode that waits for answers to these."""
        run, _ = await self.store.accept_run(
            NewRun(self.key.id, "tiny", {}, SHAPE, mode=RunMode.BATCH)
        )
        lease = await self.claim(run.id)
        await self.ask(lease, *prompts)
        await self.store.park_run(lease, step="ask", wait_s=3600, reason="batch")
        return run.id

    async def claim(self, run_id: UUID) -> Lease:
        """Execute a run."""
        leases = await self.store.claim_due_runs(owner="test", limit=10, shapes=["tiny:ask"])
        lease = next(lease for lease in leases if lease.run_id == run_id)
        await self.store.start_step(lease, "ask")
        return lease

    async def ask(self, lease: Lease, *prompts: str) -> None:
        """Let calls wait for a message batch."""
        for number, prompt in enumerate(prompts):
            opening = CallOpening(
                step="ask",
                question=sha256(prompt.encode()).digest(),
                number=number,
                model=MODEL,
                worst_usd=WORST_USD,
                request={"model": MODEL, "messages": [{"role": "user", "content": prompt}]},
                is_batch=True,
            )
            await self.store.open_call(lease, opening)

    async def calls(self) -> list[asyncpg.Record]:
        """The calls in the record."""
        return await self.fetch("SELECT * FROM claude_calls ORDER BY number")

    async def states(self) -> list[str]:
        """What became of them."""
        return [call["state"] for call in await self.calls()]

    async def fetch(self, sql: str) -> list[asyncpg.Record]:
        """Ask the database behind the store's back."""
        assert self.database.password is not None
        connection = await asyncpg.connect(
            host=self.database.host,
            port=self.database.port,
            user=self.database.user,
            password=self.database.password.get_secret_value(),
            database=self.database.db,
        )
        try:
            return list(await connection.fetch(sql))
        finally:
            await connection.close()

    async def submit_until(self, is_done: Callable[[], bool]) -> None:
        """Let the next processes do their rounds; a lock ends a moment after its holder."""
        async with asyncio.timeout(20):
            while not is_done():
                await self.courier().submit()
                await asyncio.sleep(0.02)

    async def submitted(self) -> None:
        """Submit, and see that something was."""
        before = self.api.posts
        await self.submit_until(lambda: self.api.posts > before)

    async def kill_submitter(self, die_in: str = "") -> None:
        """Submit in a process of its own, which dies on the way."""
        assert self.database.password is not None
        settings = {
            "POSTGRES_HOST": self.database.host,
            "POSTGRES_PORT": str(self.database.port),
            "POSTGRES_USER": self.database.user,
            "POSTGRES_DB": self.database.db,
            "POSTGRES_PASSWORD": self.database.password.get_secret_value(),
            "ANTHROPIC_SIMULATOR_URL": self.api.url,
            "ANTHROPIC_BATCH_LINGER_S": "0",
            "DIE_IN": die_in,
        }
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tests.fakes.batch_submitter",
            env={"PATH": os.environ["PATH"], **settings},  # noqa: TID251 - of the test's process
        )
        if not die_in:
            self.api.on_post = lambda: os.kill(process.pid, signal.SIGKILL)
        async with asyncio.timeout(60):
            assert await process.wait() in {9, -signal.SIGKILL}
        self.api.on_post = lambda: None


@pytest.fixture
async def scene(open_store: StoreFactory, fresh_database: PostgresSettings) -> AsyncIterator[Scene]:
    """A scene with one key."""
    store = open_store()
    key = await store.add_key(name="test", prefix="psk_test", key_hash=b"hash")
    async with serve_batches() as api:
        yield Scene(store, key, api, fresh_database, Hints())


def _names(api: BatchesApi) -> list[str]:
    """The calls in all message batches, by their reservation."""
    return [custom_id[-22:] for batch in api.made for custom_id in batch.custom_ids]


# --- there and back ---------------------------------------------------------------------------


async def test_calls_of_several_runs_go_in_one_message_batch_and_come_back(scene: Scene) -> None:
    """Half the price, once; the last result makes each run due."""
    first = await scene.park_run("one", "two")
    second = await scene.park_run("three")

    await scene.submitted()
    [batch] = scene.api.made
    scene.api.end(batch, lambda request: succeeded(f'{{"text": "{_prompt(request)}"}}'))
    await scene.courier().poll()

    assert 3 == len(batch.requests)
    assert all(len(custom_id) <= 64 for custom_id in batch.custom_ids)
    assert [CallState.ANSWERED] * 3 == await scene.states()
    runs = [await scene.store.get_run(scene.key.id, run) for run in (first, second)]
    assert [2 * HALF_PRICE_USD, HALF_PRICE_USD] == [run.cost_usd for run in runs]
    assert [0, 0] == [run.reserved_usd for run in runs]
    day = await scene.store.get_key_day(scene.key.id)
    assert (3 * HALF_PRICE_USD, 0) == (day.cost_usd, day.reserved_usd)
    assert {first, second} == set(scene.hints.given)
    assert {first, second} == {lease.run_id for lease in await _claim(scene.store)}


async def test_an_answer_comes_with_the_lease(scene: Scene) -> None:
    """The step reads it as if Claude had just said so."""
    run = await scene.park_run("one")
    await scene.submitted()
    scene.api.end(scene.api.made[0], lambda _: succeeded('{"text": "forty-two"}'))
    await scene.courier().poll()

    [call] = (await scene.claim(run)).calls

    assert call.answer is not None
    assert CallState.ANSWERED == call.state
    assert '{"text": "forty-two"}' == call.answer["messages"][0]["content"][0]["text"]
    assert call.answer["is_batch"]


async def test_calls_wait_for_company(scene: Scene) -> None:
    """For the linger time; a full batch waits no longer."""
    await scene.park_run("one")
    await scene.courier(linger_s=60).submit()
    assert 0 == scene.api.posts

    await scene.courier(linger_s=60, max_calls=1).submit()

    assert 1 == scene.api.posts


async def test_a_message_batch_has_bounds(scene: Scene) -> None:
    """What does not fit goes into the next one; a giant goes alone."""
    await scene.park_run("one", "two", "x" * 5000)

    for _ in range(2):
        before = scene.api.posts
        async with asyncio.timeout(20):
            while scene.api.posts == before:
                await scene.courier(max_bytes=600).submit()

    assert [2, 1] == [len(batch.requests) for batch in scene.api.made]


async def test_calls_of_a_run_that_is_executed_wait(scene: Scene) -> None:
    """It may have more of them: all go together."""
    run, _ = await scene.store.accept_run(
        NewRun(scene.key.id, "tiny", {}, SHAPE, mode=RunMode.BATCH)
    )
    lease = await scene.claim(run.id)
    await scene.ask(lease, "one")
    await scene.courier().submit()
    assert 0 == scene.api.posts

    await scene.ask(lease, "one", "two")
    await scene.store.park_run(lease, step="ask", wait_s=3600, reason="batch")
    await scene.submitted()

    assert [2] == [len(batch.requests) for batch in scene.api.made]


# --- deaths -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "die_in",
    ["MessageBatchRecord.read_requests", "MessageBatchRecord.confirm", "MessageBatches.submit"],
)
async def test_a_death_before_the_post_costs_time_only(scene: Scene, die_in: str) -> None:
    """Claude lists no such message batch, so the calls wait again, and go once."""
    await scene.park_run("one", "two")
    await scene.kill_submitter(die_in)
    assert 0 == scene.api.posts
    assert [CallState.SUBMITTED] * 2 == await scene.states()

    await scene.submitted()
    await scene.courier().submit()
    scene.api.end(scene.api.made[0])
    await scene.courier().poll()

    assert 1 == scene.api.posts
    assert [CallState.ANSWERED] * 2 == await scene.states()


@pytest.mark.parametrize("die_in", ["", "MessageBatchRecord.note_submitted"])
async def test_a_death_after_the_post_submits_nothing_twice(scene: Scene, die_in: str) -> None:
    """The message batch is found at Claude, by its results, and adopted."""
    run = await scene.park_run("one", "two")
    await scene.kill_submitter(die_in)
    for _ in range(5):
        await scene.courier().submit()
        await asyncio.sleep(0.05)
    assert 1 == scene.api.posts

    scene.api.add_stranger(size=2)
    for batch in scene.api.made:
        scene.api.end(batch)
    await _submit_until_known(scene)
    await scene.courier().poll()

    assert 1 == scene.api.posts
    assert [CallState.ANSWERED] * 2 == await scene.states()
    assert 2 * HALF_PRICE_USD == (await scene.store.get_run(scene.key.id, run)).cost_usd


async def test_a_post_without_an_answer_is_looked_for(scene: Scene) -> None:
    """The connection was cut: Claude has it."""
    await scene.park_run("one")
    scene.api.is_mute = True
    await scene.submitted()
    scene.api.is_mute = False
    for _ in range(3):
        await scene.courier().submit()
    assert 1 == scene.api.posts

    scene.api.end(scene.api.made[0])
    await _submit_until_known(scene)
    await scene.courier().poll()

    assert [CallState.ANSWERED] == await scene.states()


async def test_others_message_batches_are_left_alone(scene: Scene) -> None:
    """A stranger of the same size that ends is not ours: what was lost goes again."""
    await scene.park_run("one")
    await scene.kill_submitter("MessageBatches.submit")
    stranger = scene.api.add_stranger(size=1)
    for _ in range(3):
        await scene.courier().submit()
    assert 0 == scene.api.posts  # it may be ours as long as it has not ended

    scene.api.end(stranger)
    await scene.submitted()

    assert [1, 1] == [len(batch.requests) for batch in scene.api.made]
    assert 1 == scene.api.posts


async def test_new_calls_go_while_an_old_message_batch_is_looked_for(scene: Scene) -> None:
    """It may take a day until its results tell."""
    await scene.park_run("one")
    await scene.kill_submitter("MessageBatchRecord.note_submitted")
    await scene.park_run("two")

    await scene.submitted()

    assert 2 == scene.api.posts
    assert 2 == len(set(_names(scene.api)))


async def test_a_sender_that_was_frozen_takes_its_message_batch_back(scene: Scene) -> None:
    """It lost its lock, another one has decided and sent, and then it goes on."""

    class FrozenMessageBatches(MessageBatches):
        """Sends after everybody else has given the sender up."""

        async def submit(self, body: bytes) -> str:
            await scene.fetch(
                "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory'"
            )
            await scene.submitted()
            return await super().submit(body)

    await scene.park_run("one")
    frozen = FrozenMessageBatches(AnthropicSettings(simulator_url=scene.api.url))

    await scene.courier(frozen).submit()

    taken, too_late = scene.api.made
    assert not taken.is_cancelled
    assert too_late.is_cancelled
    rows = await scene.fetch("SELECT claude_id FROM message_batches WHERE claude_id IS NOT NULL")
    assert [taken.id] == [row["claude_id"] for row in rows]


async def test_a_sender_that_lost_its_lock_sends_nothing(scene: Scene) -> None:
    """It looks right before the POST, on the connection that holds the lock."""
    await scene.park_run("one")
    courier = scene.courier()
    record = scene.store.message_batches
    read = record.read_requests

    async def read_and_lose(batch_id: UUID, *, max_bytes: int) -> list[tuple[str, str]]:
        await scene.fetch(
            "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory'"
        )
        return await read(batch_id, max_bytes=max_bytes)

    record.read_requests = read_and_lose  # type: ignore[method-assign]  # loses the lock in between
    with pytest.raises(Exception, match=r"PostgreSQL|closed|connection"):
        await courier.submit()
    record.read_requests = read  # type: ignore[method-assign]  # as it was

    assert 0 == scene.api.posts


async def test_two_processes_submit_once(scene: Scene) -> None:
    """The lock is one's only."""
    await scene.park_run("one", "two")

    await asyncio.gather(*(scene.courier().submit() for _ in range(4)))

    assert 1 == scene.api.posts
    assert 2 == len(set(_names(scene.api)))


# --- refusals ---------------------------------------------------------------------------------


async def test_a_rate_limit_lets_the_calls_wait(scene: Scene) -> None:
    """There is no message batch; the next round sends it."""
    await scene.park_run("one")
    scene.api.refusal = (429, "rate_limit_error")
    await scene.submitted()
    assert [CallState.WAITING] == await scene.states()
    assert [] == await scene.fetch("SELECT FROM message_batches")

    scene.api.refusal = None
    await scene.submitted()

    assert [CallState.SUBMITTED] == await scene.states()


async def test_nothing_is_sent_before_the_time_that_a_rate_limit_names(scene: Scene) -> None:
    """By no process, also none that knows nothing of it; then all goes, without a trace of the refusal."""
    await scene.park_run("one")
    scene.api.refusal, scene.api.retry_after_s = (429, "rate_limit_error"), 600
    await scene.submitted()
    scene.api.refusal = None
    await scene.park_run("two")

    for _ in range(3):
        await scene.courier().submit()
    assert (1, [CallState.WAITING] * 2) == (scene.api.posts, await scene.states())
    await scene.fetch("UPDATE message_batches SET polled_at = now()")
    await scene.submitted()

    assert [CallState.SUBMITTED] * 2 == await scene.states()
    assert 1 == (await scene.store.get_totals()).open_message_batches


async def test_a_wrong_request_fails_its_calls(scene: Scene) -> None:
    """The error is the answer, and nothing stays reserved."""
    run = await scene.park_run("one")
    scene.api.refusal = (401, "authentication_error")
    await scene.submitted()

    [call] = (await scene.claim(run)).calls

    assert CallState.FAILED == call.state
    assert call.answer is not None
    assert "authentication_error" == call.answer["error_type"]
    assert 0 == (await scene.store.get_run(scene.key.id, run)).reserved_usd


async def test_what_is_too_large_is_halved(scene: Scene) -> None:
    """Down to one call, which then fails."""
    await scene.park_run("one", "two", "three", "four")
    scene.api.refusal = (413, "request_too_large")

    await scene.courier().submit()

    assert 3 == scene.api.posts  # of 4, 2 and 1 calls
    assert 1 == (await scene.states()).count(CallState.FAILED)


# --- results ----------------------------------------------------------------------------------


async def test_results_that_failed_for_now_go_again(scene: Scene) -> None:
    """Three times; then the call has the error."""
    await scene.park_run("one", "two", "three", "four")
    outcomes = {
        "one": succeeded(),
        "two": errored("invalid_request_error"),
        "three": errored("api_error"),
        "four": {"type": "expired"},
    }
    for _ in range(MAX_TRIES):
        await scene.submitted()
        scene.api.end(scene.api.made[-1], lambda request: outcomes[_prompt(request)])
        await scene.courier().poll()
    await scene.courier().submit()

    assert [4, 2, 2] == [len(batch.requests) for batch in scene.api.made]
    states = [CallState.ANSWERED, CallState.FAILED, CallState.FAILED, CallState.FAILED]
    assert states == await scene.states()
    [run] = await scene.fetch("SELECT cost_usd, reserved_usd FROM runs")
    assert (HALF_PRICE_USD, 0) == (run["cost_usd"], run["reserved_usd"])


async def test_a_result_twice_changes_nothing(scene: Scene) -> None:
    """A stream that ends too early is read again from its beginning."""
    run = await scene.park_run("one", "two", "three")
    await scene.submitted()
    scene.api.end(scene.api.made[0])
    scene.api.cut_results_after = 2
    await scene.courier().poll()
    assert 1 == (await scene.states()).count(CallState.SUBMITTED)
    assert RunState.QUEUED == (await scene.store.get_run(scene.key.id, run)).state
    assert [] == await _claim(scene.store)

    scene.api.cut_results_after = None
    for _ in range(2):
        await scene.courier().poll()

    assert 3 * HALF_PRICE_USD == (await scene.store.get_run(scene.key.id, run)).cost_usd
    assert [run] == [lease.run_id for lease in await _claim(scene.store)]


async def test_a_broken_result_costs_its_own_call_only(scene: Scene) -> None:
    """It goes again; the others are answered."""
    await scene.park_run("one", "two")
    await scene.submitted()
    scene.api.end(
        scene.api.made[0], lambda request: {} if _prompt(request) == "one" else succeeded()
    )
    await scene.courier().poll()

    assert [CallState.WAITING, CallState.ANSWERED] == await scene.states()


async def test_a_message_batch_that_claude_does_not_know_fails_its_calls(scene: Scene) -> None:
    """Nobody knows whether it was paid for, so a person decides."""
    await scene.park_run("one")
    await scene.submitted()
    scene.api.is_gone = True

    await scene.courier().poll()

    assert [CallState.FAILED] == await scene.states()


# --- runs that end ----------------------------------------------------------------------------


async def test_waiting_calls_of_a_cancelled_run_are_not_sent(scene: Scene) -> None:
    """Nor does anything stay reserved for them."""
    run = await scene.park_run("one")
    await scene.store.cancel_run(scene.key.id, run)

    await scene.courier().submit()

    assert 0 == scene.api.posts
    assert [] == await scene.calls()
    assert 0 == (await scene.store.get_run(scene.key.id, run)).reserved_usd
    assert 0 == (await scene.store.get_key_day(scene.key.id)).reserved_usd


async def test_a_message_batch_that_nobody_waits_for_is_cancelled(scene: Scene) -> None:
    """What came before is paid, and counted."""
    runs = [await scene.park_run(prompt) for prompt in ("one", "two")]
    await scene.submitted()
    [batch] = scene.api.made
    await scene.store.cancel_run(scene.key.id, runs[0])
    await scene.courier().poll()
    assert not batch.is_cancelled
    await scene.store.cancel_run(scene.key.id, runs[1])

    await scene.courier().poll()
    is_cancelled = batch.is_cancelled
    scene.api.end(
        batch,
        lambda request: succeeded() if _prompt(request) == "one" else {"type": "canceled"},
    )
    await scene.courier().poll()
    await scene.courier().submit()

    assert is_cancelled
    day = await scene.store.get_key_day(scene.key.id)
    assert (HALF_PRICE_USD, 0, 0) == (day.cost_usd, day.reserved_usd, day.doubtful_usd)


async def test_the_record_counts_what_is_on_its_way(scene: Scene) -> None:
    """For /metrics."""
    await scene.park_run("one", "two")
    await scene.submitted()
    await scene.park_run("three")

    totals = await scene.store.get_totals()

    counts = (totals.waiting_calls, totals.submitted_calls, totals.open_message_batches)
    assert (1, 2, 1) == counts


async def test_old_accounts_are_forgotten(scene: Scene) -> None:
    """Not those of late, not what is reserved still, and no message batch that a call names."""
    await scene.park_run("one")
    await scene.submitted()
    await scene.fetch(
        "UPDATE message_batches SET state = 'ended', ended_at = now() - interval '91 days'"
    )
    await scene.fetch(
        "INSERT INTO message_batches (id, state, size, ended_at)"
        " SELECT gen_random_uuid(), 'ended', 0, now() - days * interval '1 day'"
        " FROM unnest(ARRAY[89, 91]) AS days"
    )
    await scene.fetch(
        "INSERT INTO key_days (key_id, day, reserved_usd)"
        " SELECT id, current_date - days, (days = 93)::int"
        " FROM api_keys, unnest(ARRAY[80, 92, 93]) AS days"
    )

    await scene.courier().poll()

    [batches] = await scene.fetch(
        "SELECT count(*) AS n, count(claude_id) AS used FROM message_batches"
    )
    days = await scene.fetch("SELECT current_date - day AS ago FROM key_days ORDER BY ago")
    assert (2, 1) == (batches["n"], batches["used"])
    assert [0, 80, 93] == [day["ago"] for day in days]


async def test_beat_and_the_isolated_worker_carry_calls(
    scene: Scene, lab: Lab, tmp_path: Path
) -> None:
    """The tasks are known to both, and do it."""
    settings = {"ANTHROPIC_SIMULATOR_URL": scene.api.url, "ANTHROPIC_BATCH_LINGER_S": "0"}
    often = {"CELERY_BATCH_SUBMIT_INTERVAL_S": "0.2", "CELERY_BATCH_POLL_INTERVAL_S": "0.2"}
    await lab.start_worker(pool="prefork", **settings)
    await scene.park_run("one")
    beat = ["-A", "services.beat.app", "beat"]

    with celery_process(*beat, log=tmp_path / "beat.log", environment=lab.settings | often):
        async with asyncio.timeout(40):
            while not scene.api.made:
                await asyncio.sleep(0.1)
            scene.api.end(scene.api.made[0])
            while await scene.states() != [CallState.ANSWERED]:
                await asyncio.sleep(0.1)

    assert 1 == scene.api.posts


def _prompt(request: Json) -> str:
    return str(request["params"]["messages"][0]["content"])


async def _claim(store: RunStore) -> list[Lease]:
    return await store.claim_due_runs(owner="test", limit=10, shapes=["tiny:ask"])


async def _submit_until_known(scene: Scene) -> None:
    """Let couriers do their rounds until no message batch is in doubt."""
    async with asyncio.timeout(20):
        while await scene.fetch("SELECT FROM message_batches WHERE state = 'submitting'"):
            await scene.courier().submit()
            await asyncio.sleep(0.02)
