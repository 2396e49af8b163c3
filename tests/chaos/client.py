"""A client that forgets nothing: what it posted, what it was told, and what it does not know."""

import asyncio
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

import httpx

from tests.chaos.stack import Addresses

JsonObject = dict[str, Any]
TIMEOUT_S: Final = 10.0
"""Seconds after which an answer is given up; longer than any that the API may take."""


class Outcome(StrEnum):
    """What a client knows after one request."""

    ACCEPTED = "accepted"
    """2xx, with an id."""
    REFUSED = "refused"
    """Another status: nothing was accepted."""
    UNKNOWN = "unknown"
    """No answer: it may have been accepted or not."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One POST and what came of it."""

    key: str
    began_at: float
    latency_s: float
    outcome: Outcome
    status: int | None = None
    run_id: str | None = None
    has_retry_after: bool = False
    error: str | None = None


@dataclass(slots=True)
class Load:
    """Posts runs, each with an idempotency key of its own, and remembers every attempt."""

    http: httpx.AsyncClient
    prefix: str
    """What all its keys begin with."""
    body_of: Callable[[int], JsonObject]
    """The body of the run with a number."""
    clock: Callable[[], float] = time.time  # noqa: TID251 - compared with times of the record
    attempts: list[Attempt] = field(default_factory=list)
    _bodies: dict[str, JsonObject] = field(default_factory=dict)

    async def post(
        self, *, http: httpx.AsyncClient | None = None, body: JsonObject | None = None
    ) -> Attempt:
        """Post one more run."""
        key = f"{self.prefix}-{len(self._bodies)}"
        self._bodies[key] = body if body is not None else self.body_of(len(self._bodies))
        return await self._attempt(key, http or self.http)

    async def burst(self, count: int, *, at_once: int = 16) -> None:
        """Post runs as fast as the API takes them."""
        left = iter(range(count))

        async def some() -> None:
            for _ in left:
                await self.post()

        async with asyncio.TaskGroup() as group:
            for _ in range(min(at_once, count)):
                group.create_task(some())

    async def post_forever(self, *, every_s: float, http: httpx.AsyncClient | None = None) -> None:
        """Post a run at a steady rate until cancelled, whatever becomes of the one before."""
        async with asyncio.TaskGroup() as group:
            while True:
                group.create_task(self.post(http=http))
                await asyncio.sleep(every_s)

    async def settle(self, *, timeout_s: float) -> None:
        """Repeat with the same key what was refused or is unknown, until all of it is accepted."""
        deadline = time.monotonic() + timeout_s
        while (open_keys := self.open_keys()) and time.monotonic() < deadline:
            await asyncio.gather(*(self._attempt(key, self.http) for key in open_keys[:50]))
            if self.open_keys():
                await asyncio.sleep(0.2)

    def open_keys(self) -> list[str]:
        """Keys that were never accepted."""
        return sorted(set(self._bodies) - set(self.ids_by_key()))

    def ids_by_key(self) -> dict[str, set[str]]:
        """The ids that each accepted key was answered with: one, if the API keeps its word."""
        found: dict[str, set[str]] = {}
        for attempt in self.attempts:
            if attempt.run_id:
                found.setdefault(attempt.key, set()).add(attempt.run_id)
        return found

    def run_ids(self) -> list[str]:
        """Every id that a 2xx named."""
        return sorted(set().union(*self.ids_by_key().values()))

    def bodies(self) -> Iterable[tuple[str, JsonObject]]:
        """What was posted under which key."""
        return self._bodies.items()

    async def _attempt(self, key: str, http: httpx.AsyncClient) -> Attempt:
        began_at, began = self.clock(), time.monotonic()
        try:
            answer = await http.post(
                "/v1/runs", json=self._bodies[key], headers={"Idempotency-Key": key}
            )
        except httpx.HTTPError as error:
            latency_s = time.monotonic() - began
            attempt = Attempt(key, began_at, latency_s, Outcome.UNKNOWN, error=type(error).__name__)
        else:
            attempt = _answered(key, began_at, time.monotonic() - began, answer)
        self.attempts.append(attempt)
        return attempt


def open_api(addresses: Addresses, *, connections: int = 32) -> httpx.AsyncClient:
    """A client of the API."""
    return httpx.AsyncClient(
        base_url=addresses.api_url,
        headers={"Authorization": f"Bearer {addresses.api_key}"},
        timeout=TIMEOUT_S,
        limits=httpx.Limits(max_connections=connections, max_keepalive_connections=connections),
    )


def _answered(key: str, began_at: float, latency_s: float, answer: httpx.Response) -> Attempt:
    is_accepted = answer.is_success
    return Attempt(
        key,
        began_at,
        latency_s,
        Outcome.ACCEPTED if is_accepted else Outcome.REFUSED,
        status=answer.status_code,
        run_id=answer.json()["id"] if is_accepted else None,
        has_retry_after="retry-after" in answer.headers,
        error=None if is_accepted else answer.text[:300],
    )
