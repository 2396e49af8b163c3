"""Clients that watch runs and lose their connection at random moments."""

import asyncio
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import httpx

FINAL_EVENTS = frozenset({"run.succeeded", "run.failed", "run.cancelled"})
PAUSE_S = 0.1
"""Seconds until a client connects again."""
LONGEST_PATIENCE_S = 2.5
"""Seconds after which a client hangs up at the latest, wherever it is."""


@dataclass(slots=True)
class Watcher:
    """Follows one run; what it saw must be the run's events, each once and in order."""

    http: httpx.AsyncClient
    run_id: str
    dice: random.Random
    seen: list[tuple[int, str]] = field(default_factory=list)
    connections: int = 0

    async def watch(self) -> None:
        """Follow the run to its end, with reconnects by Last-Event-ID."""
        while not self._has_ended():
            # What hangs up is this timer, wherever the stream is at that moment.
            patience_s = self.dice.uniform(0.1, LONGEST_PATIENCE_S)
            try:
                async with asyncio.timeout(patience_s):
                    if await self._follow():
                        return
            except (TimeoutError, httpx.HTTPError):
                pass
            await asyncio.sleep(PAUSE_S)

    def _has_ended(self) -> bool:
        return bool(self.seen) and self.seen[-1][1] in FINAL_EVENTS

    async def _follow(self) -> bool:
        """Read one stream; true when the API says that nothing follows."""
        self.connections += 1
        headers = {"Last-Event-ID": str(self.seen[-1][0])} if self.seen else {}
        async with self.http.stream(
            "GET", f"/v1/runs/{self.run_id}/events", headers=headers
        ) as answer:
            if answer.status_code != httpx.codes.OK:
                return answer.status_code == httpx.codes.NO_CONTENT
            async for number, kind in _events(answer):
                self.seen.append((number, kind))
        return False


async def _events(answer: httpx.Response) -> AsyncIterator[tuple[int, str]]:
    fields: dict[str, str] = {}
    async for line in answer.aiter_lines():
        if line and not line.startswith(":"):
            name, _, value = line.partition(":")
            fields[name] = value.removeprefix(" ")
        elif not line:
            if "id" in fields:  # else it is text, which is not in the record
                yield int(fields["id"]), fields["event"]
            fields = {}
