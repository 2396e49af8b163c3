"""How long the API takes to answer, all the time that a cell lasts."""

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import httpx

from tests.chaos.client import Load


@dataclass(frozen=True, slots=True)
class Probe:
    """One request."""

    method: str
    began_at: float
    latency_s: float
    status: int | None
    """None: there was no answer."""
    has_retry_after: bool = False


@dataclass(slots=True)
class Prober:
    """Posts a run and reads one, again and again, each on connections of its own."""

    load: Load
    posting: httpx.AsyncClient
    getting: httpx.AsyncClient
    every_s: float
    probes: list[Probe] = field(default_factory=list)

    async def run_forever(self) -> None:
        """Probe until cancelled; a slow answer keeps none of the next ones waiting."""
        async with asyncio.TaskGroup() as group:
            while True:
                group.create_task(self._post())
                group.create_task(self._get())
                await asyncio.sleep(self.every_s)

    def between(self, begin: float, end: float) -> list[Probe]:
        """Probes that began within a span of time."""
        return [probe for probe in self.probes if begin <= probe.began_at <= end]

    async def _post(self) -> None:
        attempt = await self.load.post(http=self.posting)
        self.probes.append(
            Probe(
                "POST", attempt.began_at, attempt.latency_s, attempt.status, attempt.has_retry_after
            )
        )

    async def _get(self) -> None:
        began_at, began = self.load.clock(), time.monotonic()
        try:
            answer = await self.getting.get("/v1/runs", params={"limit": 1})
            status, has_retry_after = answer.status_code, "retry-after" in answer.headers
        except httpx.HTTPError:
            status, has_retry_after = None, False
        latency_s = time.monotonic() - began
        self.probes.append(Probe("GET", began_at, latency_s, status, has_retry_after))


@dataclass(frozen=True, slots=True)
class Latency:
    """Answers to one method in a span of time."""

    count: int
    p50_s: float
    p99_s: float
    statuses: dict[str, int]


def summarize(probes: Sequence[Probe], method: str) -> Latency:
    """Latency of the answers, whatever they say; requests without one count among the statuses only."""
    chosen = [probe for probe in probes if probe.method == method]
    answered = sorted(probe.latency_s for probe in chosen if probe.status is not None)
    statuses = Counter(str(probe.status or "no answer") for probe in chosen)
    return Latency(
        len(chosen),
        quantile(answered, 0.5),
        quantile(answered, 0.99),
        dict(sorted(statuses.items())),
    )


def quantile(ordered: Sequence[float], share: float) -> float:
    """The smallest value that so large a share of the values is not above; 0 if there is none."""
    if not ordered:
        return 0.0
    rank = -(-len(ordered) * share // 1)  # rounded up
    return ordered[max(0, int(rank) - 1)]
