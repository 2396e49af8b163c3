"""One cell: load, a fault in the middle of it, its end, and the verdict."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import httpx

from tests.chaos import evidence
from tests.chaos.client import JsonObject, Load, open_api
from tests.chaos.faults import Answers, Fault
from tests.chaos.prober import Probe, Prober, summarize
from tests.chaos.scene import Scene
from tests.chaos.stack import from_runner
from tests.chaos.verdict import Evidence, Verdict, judge
from tests.chaos.watchers import Watcher

ACCEPT_WITHIN_S: Final = 1.0
REFUSE_WITHIN_S: Final = 2.0
EMAIL_EVERY: Final = 8
"""One run in so many writes an email, of which there must be one in the end."""
EMAIL: Final = {
    "template_type": "general",
    "template": "Dear {{name}},\n\nI read about your work on {{research_topic}}.\n\nKind regards\n{{sender}}",
    "recipient": {"name": "Dr. Elena Marsh", "affiliation": "Northfield University"},
    "sender": "Sam Okafor",
}


@dataclass(frozen=True, slots=True)
class Plan:
    """How much happens in a cell."""

    runs: int
    """Posted before the fault."""
    probe_every_s: float
    watchers: int
    timeout_s: float
    """Seconds from the heal after which every run must have ended."""
    seed: int
    after_s: float = 1.0
    """Seconds after the heal for which the API is probed on."""


@dataclass(slots=True)
class Cell:
    """What a cell needs while it lasts."""

    scene: Scene
    fault: Fault
    plan: Plan
    load: Load
    prober: Prober
    watchers: list[Watcher] = field(default_factory=list)
    began_at: float = 0.0
    harmed_at: float = 0.0
    healed_at: float = 0.0


async def run_cell(scene: Scene, fault: Fault, plan: Plan, *, prefix: str) -> Verdict:
    """Let a fault happen to runs in flight, and judge what became of them."""
    await asyncio.to_thread(scene.ledger.clear)
    async with AsyncExitStack() as exits:
        apis = [await exits.enter_async_context(open_api(scene.addresses)) for _ in range(4)]
        runs = fault.runs or plan.runs
        load = Load(apis[0], prefix, lambda number: body_of(fault, number, runs=runs))
        cell = Cell(scene, fault, plan, load, Prober(load, apis[1], apis[2], plan.probe_every_s))
        await _play(cell, apis[3])
    return await asyncio.to_thread(_judge, cell)


def body_of(fault: Fault, number: int, *, runs: int) -> JsonObject:
    """The run with a number: mostly drills, now and then an email; poisoned, where the fault is poison."""
    if fault.poison is not None and number < runs and number % fault.poison_every == 1:
        return {"pipeline": "drill", "input": fault.input | fault.poison}
    if fault.has_emails and number % EMAIL_EVERY == EMAIL_EVERY - 1:
        sources = [f"{from_runner('SAMPLES_URL')}/researcher.html"]
        return {"pipeline": "outreach_email", "input": EMAIL | {"sources": sources}}
    told = fault.input if number < runs or fault.input_after is None else fault.input_after
    return {"pipeline": fault.pipelines[number % len(fault.pipelines)], "input": told}


async def _play(cell: Cell, http: httpx.AsyncClient) -> None:
    await cell.load.burst(cell.fault.runs or cell.plan.runs)
    cell.watchers = list(_watchers(cell, http))
    async with in_background(*(watcher.watch() for watcher in cell.watchers)) as watching:
        async with in_background(cell.prober.run_forever()):
            await _harm(cell)
            await asyncio.sleep(cell.fault.hold_s(cell.scene))
            await _heal(cell)
            await asyncio.sleep(cell.plan.after_s)
        await cell.load.settle(timeout_s=cell.plan.timeout_s)
        await until_finished(cell.scene, cell.load.prefix, timeout_s=cell.plan.timeout_s)
        await asyncio.wait(watching, timeout=5)


def _watchers(cell: Cell, http: httpx.AsyncClient) -> list[Watcher]:
    """Clients of a few runs, spread over all."""
    ids = cell.load.run_ids()
    dice = random.Random(cell.plan.seed)  # noqa: S311 - dice, not secrets
    chosen = dice.sample(ids, min(cell.plan.watchers, len(ids)))
    return [Watcher(http, run_id, random.Random(dice.random())) for run_id in chosen]  # noqa: S311 - same


async def _harm(cell: Cell) -> None:
    """Apply the fault while steps are being executed."""
    await _until_running(cell)
    cell.began_at = cell.scene.stack.now()
    await asyncio.to_thread(cell.fault.apply, cell.scene)
    cell.harmed_at = cell.scene.stack.now()


async def _heal(cell: Cell) -> None:
    if cell.fault.heal:
        await asyncio.to_thread(cell.fault.heal, cell.scene)
        cell.healed_at = cell.scene.stack.now()
    else:
        cell.healed_at = cell.harmed_at


async def _until_running(cell: Cell) -> None:
    """Wait until enough steps are being executed."""
    async with asyncio.timeout(30):
        while (
            await asyncio.to_thread(evidence.count_running_steps, cell.scene.stack)
            < cell.fault.running
        ):
            await asyncio.sleep(0.05)


async def until_finished(scene: Scene, prefix: str, *, timeout_s: float) -> None:
    """Wait until every run of a cell has ended, or its time is up."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if not await asyncio.to_thread(evidence.count_unfinished, scene.stack, prefix):
            return
        await asyncio.sleep(0.4)


def _judge(cell: Cell) -> Verdict:
    scene, fault, load = cell.scene, cell.fault, cell.load
    probes = cell.prober.between(cell.began_at, cell.healed_at + cell.plan.after_s)
    runs = evidence.read_runs(scene.stack, load.prefix)
    in_flight = evidence.most_executed(runs.values(), cell.began_at, cell.harmed_at)
    return judge(
        Evidence(
            runs=runs,
            told=load.ids_by_key(),
            never_accepted=load.open_keys(),
            calls=scene.ledger.calls(),
            calls_in_flight=in_flight * fault.moments + fault.spoiled,
            poison_keys=_poison_keys(cell),
            max_crashes=scene.max_crashes,
            watchers=cell.watchers,
            harmed_at=cell.harmed_at,
            healed_at=cell.healed_at,
            recovery_bound_s=fault.bound_s(scene),
            late_answers=late_answers(probes, fault.answers),
            latency={method: summarize(probes, method) for method in ("POST", "GET")},
        )
    )


def _poison_keys(cell: Cell) -> frozenset[str]:
    """Keys of the runs that cannot succeed."""
    if not cell.fault.is_poison_deadly:
        return frozenset()
    return frozenset(key for key, body in cell.load.bodies() if "poison" in body["input"])


def late_answers(probes: Sequence[Probe], answers: Answers) -> list[str]:
    """Requests that were not answered as they must be while the fault lasts."""
    if answers is Answers.ANY:
        return []
    return [
        f"{probe.method} {probe.status} after {probe.latency_s:.2f} s"
        for probe in probes
        if not _is_good(probe, answers)
    ]


def _is_good(probe: Probe, answers: Answers) -> bool:
    if probe.status in (200, 202):
        must_accept = answers is Answers.ACCEPT and probe.method == "POST"
        return probe.latency_s <= (ACCEPT_WITHIN_S if must_accept else REFUSE_WITHIN_S)
    is_refusal = probe.status == httpx.codes.SERVICE_UNAVAILABLE and probe.has_retry_after
    return answers is Answers.REFUSE and is_refusal and probe.latency_s <= REFUSE_WITHIN_S


@asynccontextmanager
async def in_background(
    *works: Coroutine[Any, Any, None],
) -> AsyncIterator[list[asyncio.Task[None]]]:
    """Let something happen until the block ends; an error of it is not lost."""
    tasks = [asyncio.create_task(work) for work in works]
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
    for result in results:
        if isinstance(result, Exception):
            raise result
