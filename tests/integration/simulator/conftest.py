"""The simulator, served by uvicorn on an ephemeral port of the loopback, and the Anthropic SDK."""

import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import anthropic
import httpx
import pytest
import pytest_asyncio
import uvicorn

from config.simulator import SimulatorSettings
from services.simulator.app import create_app

START_TIMEOUT_S = 10


@dataclass(frozen=True, slots=True)
class Admin:
    """The simulator's own endpoints."""

    url: str
    http: httpx.Client

    def put(self, what: str, **body: Any) -> None:
        """Set faults, limits or the rules of batches."""
        self.http.put(f"/admin/{what}", json=body).raise_for_status()

    def get(self, what: str, **query: str) -> Any:
        """Read usage, limits, cache, batches and others."""
        return self.http.get(f"/admin/{what}", params=query).raise_for_status().json()

    def ledger(self, *, timeout_s: float = 5) -> dict[str, Any]:
        """The sums over all calls, once all have ended: a client has its answer a moment earlier."""
        deadline = time.monotonic() + timeout_s
        while (sums := dict(self.get("ledger")))["open"]:
            assert time.monotonic() < deadline, sums
            time.sleep(0.02)
        return sums


@pytest.fixture
def admin() -> Iterator[Admin]:
    """A fresh simulator that answers at once."""
    settings = SimulatorSettings(latency_ms=0, chunk_delay_ms=0, batch_seconds=0)
    config = uvicorn.Config(create_app(settings), log_level="critical", lifespan="off")
    server = uvicorn.Server(config)
    with closing(socket.create_server(("127.0.0.1", 0), backlog=2048)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        deadline = time.monotonic() + START_TIMEOUT_S
        while not server.started and time.monotonic() < deadline:
            time.sleep(0.01)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with httpx.Client(base_url=url, timeout=10) as http:
            yield Admin(url, http)
        server.should_exit = True
        thread.join()


@pytest_asyncio.fixture
async def sdk(admin: Admin) -> AsyncIterator[anthropic.AsyncAnthropic]:
    """The SDK, without retries of its own."""
    client = anthropic.AsyncAnthropic(api_key="any", base_url=admin.url, max_retries=0)
    async with client:
        yield client
