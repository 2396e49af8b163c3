"""The real simulator, served by uvicorn on an ephemeral port of the loopback."""

import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
import pytest_asyncio
import uvicorn

from config.anthropic import AnthropicSettings
from config.simulator import SimulatorSettings
from services.core.claude.anthropic_claude import AnthropicClaude
from services.simulator.app import create_app

START_TIMEOUT_S = 10


@dataclass(frozen=True, slots=True)
class RunningSimulator:
    """A simulator that listens, and its admin API."""

    url: str
    http: httpx.Client

    def fail(self, fault: str | None, **rule: Any) -> None:
        """Add a fault rule."""
        self.http.put("/admin/faults", json={"fault": fault, **rule}).raise_for_status()

    def requests(self) -> list[dict[str, Any]]:
        """The calls so far."""
        return list(self.http.get("/admin/requests").json())

    def ledger(self, *, timeout_s: float = 5) -> dict[str, Any]:
        """The sums over the calls so far, once all have ended: a client has its answer a moment earlier."""
        deadline = time.monotonic() + timeout_s
        while True:
            sums = dict(self.http.get("/admin/ledger").json())
            if not sums["open"]:
                return sums
            assert time.monotonic() < deadline, sums
            time.sleep(0.02)

    def wait_for(self, outcome: str, *, timeout_s: float = 5) -> dict[str, Any]:
        """The last call, once it has ended that way."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            last = self.requests()[-1:]
            if last and last[0]["outcome"] == outcome:
                return last[0]
            time.sleep(0.02)
        pytest.fail(f"no call ended as {outcome}: {self.requests()}")


@pytest.fixture(scope="session")
def _served() -> Iterator[str]:
    settings = SimulatorSettings(latency_ms=0, chunk_delay_ms=0)
    config = uvicorn.Config(create_app(settings), log_level="critical", lifespan="off")
    server = uvicorn.Server(config)
    with closing(socket.create_server(("127.0.0.1", 0), backlog=2048)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        deadline = time.monotonic() + START_TIMEOUT_S
        while not server.started and time.monotonic() < deadline:
            time.sleep(0.01)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = True
        thread.join()


@pytest.fixture
def simulator(_served: str) -> Iterator[RunningSimulator]:
    """The simulator without faults and with an empty log."""
    with httpx.Client(base_url=_served, timeout=10) as http:
        http.delete("/admin/faults").raise_for_status()
        http.delete("/admin/requests").raise_for_status()
        yield RunningSimulator(_served, http)


@pytest_asyncio.fixture
async def make_claude(
    simulator: RunningSimulator,
) -> AsyncIterator[Callable[..., AnthropicClaude]]:
    """Builds clients of the simulator, and closes them."""
    built = []

    def make(**settings: Any) -> AnthropicClaude:
        defaults = {"api_key": None, "simulator_url": simulator.url}
        built.append(AnthropicClaude(AnthropicSettings(**(defaults | settings))))
        return built[-1]

    yield make
    for claude in built:
        await claude.aclose()


@pytest.fixture
def claude(make_claude: Callable[..., AnthropicClaude]) -> AnthropicClaude:
    """A client with default settings."""
    return make_claude()
