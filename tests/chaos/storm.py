"""Many faults at once, from a seed: a schedule, and what happens to runs that are posted all the while."""

import asyncio
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from tests.chaos import evidence
from tests.chaos.cell import in_background, until_finished
from tests.chaos.client import JsonObject, Load, open_api
from tests.chaos.fault_table import FAULTS
from tests.chaos.faults import Fault
from tests.chaos.prober import Prober, summarize
from tests.chaos.scene import Scene
from tests.chaos.stack import StackError
from tests.chaos.verdict import Evidence, Verdict, judge

TOGETHER: Final = 3
"""Faults that may last at once."""
POOL: Final = {
    "kill pool process": 8,
    "kill worker": 4,
    "kill all workers": 2,
    "kill isolated worker": 1,
    "kill beat": 3,
    "kill one API process": 6,
    "kill API": 2,
    "kill Redis": 4,
    "kill PostgreSQL": 3,
    "kill PostgreSQL backend": 3,
    "PostgreSQL immediate stop": 2,
    "freeze worker": 4,
    "freeze beat": 3,
    "freeze api": 2,
    "freeze redis": 4,
    "freeze postgres": 3,
    "cut api–postgres": 3,
    "cut api–redis": 3,
    "cut worker–postgres": 3,
    "cut worker–redis": 3,
    "cut worker–simulator": 2,
    "cut beat–redis": 2,
    "Redis FLUSHALL": 8,
    "Redis full": 4,
    "garbage: not JSON": 2,
    "garbage: unknown task": 2,
    "stop worker, short steps": 3,
    "Claude 429": 3,
    "Claude 529": 3,
    "Claude drop": 3,
    "Claude slow stream": 3,
}
"""What a storm is made of, and how often each comes."""
DRAIN_RUNS_PER_S: Final = 50
"""What a small machine gets through after a storm, which leaves most of its runs waiting."""
CLAUDE_RATE: Final = 0.3
"""Share of the calls that a fault of Claude spoils in a storm, so that runs have tries left."""


@dataclass(frozen=True, slots=True)
class Strike:
    """One fault of a storm."""

    at_s: float
    fault: Fault
    hold_s: float


@dataclass(frozen=True, slots=True)
class Storm:
    """How much happens."""

    seed: int
    runs: int
    faults: int
    duration_s: float
    timeout_s: float
    """Seconds after the last fault within which every run must have ended."""


def schedule(storm: Storm, *, mode: str) -> list[Strike]:
    """The same strikes for the same seed and mode."""
    dice = random.Random(storm.seed)  # noqa: S311 - dice, not secrets
    known = {fault.name: fault for fault in FAULTS if mode in fault.modes}
    names = [name for name in POOL if name in known]
    weights = [POOL[name] for name in names]
    pause_s = storm.duration_s / storm.faults
    return [
        Strike(
            at_s=(number + dice.random()) * pause_s,
            fault=known[dice.choices(names, weights)[0]],
            hold_s=dice.choice((0.2, 0.5, 1.0, 2.0, 4.0)),
        )
        for number in range(storm.faults)
    ]


@dataclass(slots=True)
class Weather:
    """What goes on at the moment."""

    scene: Scene
    harmful: list[tuple[float, float]] = field(default_factory=list)
    """When each fault lasted that can cost calls in flight."""
    struck: list[str] = field(default_factory=list)
    """Faults that happened."""
    errors: list[str] = field(default_factory=list)
    """Those that met a service that was down already, and what they were told."""
    _locks: dict[str, asyncio.Lock] = field(default_factory=dict)
    _together: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(TOGETHER))

    async def strike(self, strike: Strike) -> None:
        """Let a fault happen once nobody else is at the same service."""
        await asyncio.sleep(strike.at_s)
        async with self._together, self._lock_of(strike.fault):
            began_at = self.scene.stack.now()
            await self._suffer(strike)
            if strike.fault.moments:
                self.harmful.append((began_at, self.scene.stack.now()))

    async def _suffer(self, strike: Strike) -> None:
        fault = strike.fault
        try:
            await asyncio.to_thread(fault.apply, self.scene)
            self.struck.append(fault.name)
            await asyncio.sleep(strike.hold_s)
        except StackError as error:
            # Somebody else's fault is in the way, such as a container that has not come back yet.
            self.errors.append(f"{fault.name}: {error}")
        finally:
            if fault.heal:
                await self._heal(fault)

    async def _heal(self, fault: Fault) -> None:
        assert fault.heal
        try:
            await asyncio.to_thread(fault.heal, self.scene)
        except StackError as error:
            self.errors.append(f"end of {fault.name}: {error}")

    def _lock_of(self, fault: Fault) -> asyncio.Lock:
        """One for all that happens to the same service."""
        return self._locks.setdefault(_place_of(fault), asyncio.Lock())


PLACES: Final[Mapping[str, Sequence[str]]] = {
    "worker": ("pool process", "worker", "all workers", "isolated"),
    "beat": ("beat",),
    "redis": ("Redis", "redis", "garbage"),
    "postgres": ("PostgreSQL", "postgres"),
    "api": ("API", "api"),
    "claude": ("Claude",),
}


def _place_of(fault: Fault) -> str:
    for place, words in PLACES.items():
        if any(word in fault.name for word in words):
            return place
    return fault.name


async def run_storm(scene: Scene, storm: Storm, *, prefix: str) -> tuple[Verdict, Weather]:
    """Post runs while it rages, and judge when it is over."""
    await asyncio.to_thread(scene.ledger.clear)
    weather = Weather(scene)
    strikes = schedule(storm, mode=scene.stack.mode)
    began_at = scene.stack.now()
    async with open_api(scene.addresses) as api, open_api(scene.addresses) as probing:
        load = Load(api, prefix, _body)
        prober = Prober(load, probing, probing, every_s=0.5)
        async with in_background(prober.run_forever(), _post_runs(load, storm)):
            await asyncio.gather(*(weather.strike(strike) for strike in strikes))
            healed_at = scene.stack.now()
        await load.settle(timeout_s=storm.timeout_s)
        await until_finished(scene, prefix, timeout_s=storm.timeout_s)
    probes = prober.between(began_at, healed_at)
    runs = await asyncio.to_thread(evidence.read_runs, scene.stack, prefix)
    found = Evidence(
        runs=runs,
        told=load.ids_by_key(),
        never_accepted=load.open_keys(),
        calls=await asyncio.to_thread(scene.ledger.calls),
        calls_in_flight=sum(
            evidence.most_executed(runs.values(), begin, end) for begin, end in weather.harmful
        ),
        poison_keys=frozenset(),
        max_crashes=scene.max_crashes,
        watchers=[],
        harmed_at=began_at,
        healed_at=healed_at,
        recovery_bound_s=scene.bound_s + storm.runs / DRAIN_RUNS_PER_S,
        latency={method: summarize(probes, method) for method in ("POST", "GET")},
    )
    return judge(found), weather


def _body(number: int) -> JsonObject:
    return {"pipeline": "drill", "input": {"seconds": 0.2 + number % 5 * 0.1}}


async def _post_runs(load: Load, storm: Storm) -> None:
    """So many that the storm has its runs when it ends."""
    pause_s = storm.duration_s / storm.runs
    async with asyncio.TaskGroup() as group:
        for _ in range(storm.runs):
            group.create_task(load.post())
            await asyncio.sleep(pause_s)
