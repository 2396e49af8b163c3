"""A key's daily budget while the worker that spends it is killed: not a cent more is spent."""

import asyncio
import time
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Final

import httpx
import pytest
from genai_prices import Usage, calc_price

from tests.chaos import evidence
from tests.chaos.cell import until_finished
from tests.chaos.client import JsonObject, Load, open_api
from tests.chaos.conftest import IS_FULL
from tests.chaos.scene import Scene

pytestmark = pytest.mark.timeout(300)

RUNS: Final = 100 if IS_FULL else 40
BUDGET_USD: Final = Decimal("0.05") if IS_FULL else Decimal("0.02")
"""For half of their calls at most (one costs $0.00035); what dies in mid-call takes of it, too."""
KILLS: Final = 2
RUNNING: Final = 2
"""Steps that are being executed when the worker dies."""
ACCOUNTED: Final = ("cost", "doubtful", "reserved")
"""Where the record has what was spent; a call that died is reserved until its run asks again."""
PATIENCE_S: Final = 90.0
POLL_S: Final = 0.2
DRILL: Final = {"pipeline": "drill", "input": {"seconds": 0.2}}
REFUSED: Final = """
    SELECT count(*) AS count FROM runs
     WHERE idempotency_key LIKE '{prefix}-%' AND failure->>'reason' = 'budget_exceeded'
"""
STANDS: Final = """
    SELECT count(*) AS count FROM runs
     WHERE idempotency_key LIKE '{prefix}-%' AND state IN ('queued', 'running')
       AND NOT coalesce((
           SELECT type = 'step.waiting' AND data->>'reason' = 'budget' FROM events
            WHERE events.run_id = runs.id ORDER BY seq DESC LIMIT 1), false)
"""
"""Runs that go on by themselves: they have neither ended, nor do they wait for a budget."""


@dataclass(frozen=True, slots=True)
class Spender:
    """A key of its own with a daily budget."""

    scene: Scene
    key: str

    @classmethod
    def make(cls, scene: Scene, *, budget_usd: Decimal) -> "Spender":
        """Have an operator make the key."""
        name = f"spender-{uuid.uuid4().hex[:8]}"
        command = f"python -m services.api.keys create --name {name}"
        answer = scene.stack.shell("api", f"{command} --daily-budget-usd {budget_usd}")
        return cls(scene, answer.split()[-1])

    def raise_budget(self, budget_usd: Decimal) -> None:
        """Have an operator allow more."""
        prefix = self.key.split("_")[1]
        command = f"python -m services.api.keys limit {prefix}"
        self.scene.stack.shell("api", f"{command} --daily-budget-usd {budget_usd}")

    def open_api(self) -> httpx.AsyncClient:
        """The API as who has the key sees it."""
        return open_api(replace(self.scene.addresses, api_key=self.key))


@pytest.fixture
def spender(scene: Scene) -> Spender:
    """A key with its whole budget; the simulator has seen no call yet."""
    scene.stack.wait_healthy()
    scene.ledger.clear()
    return Spender.make(scene, budget_usd=BUDGET_USD)


async def test_a_daily_budget_holds_while_workers_are_killed(
    scene: Scene, spender: Spender
) -> None:
    """What Claude charged for all calls, broken ones too, stays within the budget; then all succeed."""
    prefix = f"budget-{uuid.uuid4().hex[:8]}"
    async with spender.open_api() as api:
        load = Load(api, prefix, lambda _: DRILL)
        await load.burst(RUNS)
        await _until_one_is_charged(scene, load.run_ids())
        await _kill_the_worker(scene)
        await _until_one_is_refused(scene, prefix)
        await _until_none_goes_on(scene, prefix)
        ended = await _read_all(api, load.run_ids())
        spent_usd = await asyncio.to_thread(_charged_usd, scene, load.run_ids())
        today = (await api.get("/v1/usage")).raise_for_status().json()

        await asyncio.to_thread(spender.raise_budget, 100 * BUDGET_USD)
        # Twice: one may have been refused just before, and have failed just after it was read.
        for _ in range(2):
            await _replay_failed(api, load.run_ids())
            await until_finished(scene, prefix, timeout_s=PATIENCE_S)
        finally_ended = await _read_all(api, load.run_ids())

    assert [] == load.open_keys()
    assert 0 < spent_usd <= BUDGET_USD, f"BROKEN: unexpected spending: {spent_usd}"
    assert spent_usd <= sum(Decimal(str(today[f"{kind}_usd"])) for kind in ACCOUNTED)
    assert {"budget_exceeded"} == {_reason(run) for run in ended if run["state"] == "failed"}
    assert {"succeeded"} == {run["state"] for run in finally_ended}, "BROKEN: unexpected failure"


async def _kill_the_worker(scene: Scene) -> None:
    """SIGKILL to all of it, in mid-work, and start it; so often."""
    for _ in range(KILLS):
        await _until_running(scene)
        await asyncio.to_thread(scene.stack.kill, "worker")
        await asyncio.to_thread(scene.stack.start, "worker")


async def _until_one_is_charged(scene: Scene, run_ids: Iterable[str]) -> None:
    """Wait until Claude has charged for a call: kills that all come before that leave nothing but doubts."""
    wanted = set(run_ids)
    async with asyncio.timeout(PATIENCE_S):
        while not await asyncio.to_thread(_charged_usd, scene, wanted):
            await asyncio.sleep(0.05)


async def _until_running(scene: Scene) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while await asyncio.to_thread(evidence.count_running_steps, scene.stack) < RUNNING:
            await asyncio.sleep(0.05)


async def _until_one_is_refused(scene: Scene, prefix: str) -> None:
    """Wait until there is no money left for even one call."""
    deadline = time.monotonic() + PATIENCE_S
    query = REFUSED.format(prefix=prefix)
    while not (await asyncio.to_thread(scene.stack.sql, query))[0]["count"]:
        assert time.monotonic() < deadline, "BROKEN: not finished in time: no run was refused"
        await asyncio.sleep(POLL_S)


async def _until_none_goes_on(scene: Scene, prefix: str) -> None:
    """Wait until each run has ended or waits for a budget."""
    deadline = time.monotonic() + PATIENCE_S
    query = STANDS.format(prefix=prefix)
    while left := (await asyncio.to_thread(scene.stack.sql, query))[0]["count"]:
        assert time.monotonic() < deadline, f"BROKEN: not finished in time: {left}"
        await asyncio.sleep(POLL_S)


async def _read_all(api: httpx.AsyncClient, run_ids: Iterable[str]) -> list[JsonObject]:
    answers = await asyncio.gather(*(api.get(f"/v1/runs/{run_id}") for run_id in run_ids))
    return [answer.raise_for_status().json() for answer in answers]


async def _replay_failed(api: httpx.AsyncClient, run_ids: Iterable[str]) -> None:
    runs = await _read_all(api, run_ids)
    failed = [run["id"] for run in runs if run["state"] == "failed"]
    answers = await asyncio.gather(*(api.post(f"/v1/runs/{run_id}/replay") for run_id in failed))
    for answer in answers:
        answer.raise_for_status()


def _reason(run: JsonObject) -> str:
    return str(run["failure"]["reason"])


def _charged_usd(scene: Scene, run_ids: Iterable[str]) -> Decimal:
    """What Claude charged these runs for, by its own count and its list prices."""
    wanted = set(run_ids)
    answer = httpx.get(f"{scene.addresses.simulator_url}/admin/usage", timeout=30)
    rows = answer.raise_for_status().json()["runs"]
    return sum((_price_usd(row) for row in rows if row["user_id"] in wanted), Decimal(0))


def _price_usd(used: JsonObject) -> Decimal:
    written, read = used["cache_creation_input_tokens"], used["cache_read_input_tokens"]
    usage = Usage(
        # genai-prices counts cached tokens as input tokens, too.
        input_tokens=used["input_tokens"] + written + read,
        cache_write_tokens=written,
        cache_read_tokens=read,
        output_tokens=used["output_tokens"],
    )
    return calc_price(usage, used["model"], provider_id="anthropic").total_price
