"""A running Penstock, seen only from outside: addresses and keys come from the runner (`make test`)."""

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

JsonObject = dict[str, Any]
FINAL_STATES = {"succeeded", "failed", "cancelled"}


def _from_runner(name: str) -> str:
    value = os.environ.get(f"PENSTOCK_E2E_{name}")  # noqa: TID251 - black box: no settings model here
    if not value:
        pytest.fail(f"PENSTOCK_E2E_{name} is not set: run the end-to-end tests with `make test`")
    return value


@dataclass(frozen=True, slots=True)
class Stack:
    """Addresses of a running stack and the commands that hurt and mend it."""

    mode: str
    """compose or local."""
    samples_url: str
    """The simulator's sample sources, as workers reach them."""
    kill_worker: str
    """Command that sends SIGKILL to the asyncio worker."""
    start_worker: str
    """Command that brings it back and waits until it is healthy."""

    def run(self, command: str) -> str:
        """Run one of the commands; its output."""
        done = subprocess.run(
            command, shell=True, check=False, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout


@dataclass(frozen=True, slots=True)
class Api:
    """The HTTP API with a key."""

    http: httpx.Client

    def post_run(self, body: JsonObject, **headers: str) -> JsonObject:
        """Post a run that must be accepted; the run."""
        answer = self.http.post("/v1/runs", json=body, headers=headers)
        assert answer.status_code == 202, answer.text
        return dict(answer.json())

    def get(self, path: str, **params: Any) -> JsonObject:
        """Read something that must be there."""
        answer = self.http.get(path, params=params)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def wait(self, run_id: str, *, timeout_s: float = 60) -> JsonObject:
        """The run once it has ended."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            run = self.get(f"/v1/runs/{run_id}")
            if run["state"] in FINAL_STATES:
                return run
            time.sleep(0.2)
        pytest.fail(f"run {run_id} did not end within {timeout_s} s: {run}")

    def read_events(self, run_id: str, *, after: int = 0) -> list[tuple[int, str, JsonObject]]:
        """Every event of a run's record to its end, as (id, type, data)."""
        return _recorded(self.read_stream(f"/v1/runs/{run_id}", after=after))

    def read_events_of(self, path: str, *, after: int = 0) -> list[tuple[int, str, JsonObject]]:
        """Every event with an id of a run or a batch to its end, as (id, type, data)."""
        return _recorded(self.read_stream(path, after=after))

    def read_stream(self, path: str, *, after: int = 0) -> list[tuple[str, str, JsonObject]]:
        """Every event of a run or a batch to its end, also those without an id, which is empty then."""
        headers = {"Last-Event-ID": str(after)} if after else {}
        with self.http.stream("GET", f"{path}/events", headers=headers, timeout=60) as answer:
            assert answer.status_code == 200
            return list(_parse_events(answer.iter_lines()))


def _recorded(events: list[tuple[str, str, JsonObject]]) -> list[tuple[int, str, JsonObject]]:
    """Those with an id."""
    return [(int(number), kind, data) for number, kind, data in events if number]


def _parse_events(lines: Iterator[str]) -> Iterator[tuple[str, str, JsonObject]]:
    fields: dict[str, str] = {}
    for line in lines:
        if line.startswith(":"):
            continue
        if line:
            name, _, value = line.partition(":")
            fields[name] = value.removeprefix(" ")
        elif "event" in fields:
            data = httpx.Response(200, text=fields["data"]).json()
            yield fields.get("id", ""), fields["event"], data
            fields = {}


@pytest.fixture(scope="session")
def stack() -> Stack:
    """The running stack."""
    return Stack(
        mode=_from_runner("MODE"),
        samples_url=_from_runner("SAMPLES_URL").rstrip("/"),
        kill_worker=_from_runner("KILL_WORKER"),
        start_worker=_from_runner("START_WORKER"),
    )


@pytest.fixture(scope="session")
def api() -> Iterator[Api]:
    """A client with the initial key."""
    headers = {"Authorization": f"Bearer {_from_runner('KEY')}"}
    with httpx.Client(base_url=_from_runner("URL"), headers=headers, timeout=15) as http:
        yield Api(http)


@pytest.fixture(scope="session")
def stranger() -> Iterator[httpx.Client]:
    """A client without a key."""
    with httpx.Client(base_url=_from_runner("URL"), timeout=15) as http:
        yield http


@pytest.fixture(scope="session")
def flower() -> Iterator[httpx.Client]:
    """Flower, logged in."""
    login = (_from_runner("FLOWER_USER"), _from_runner("FLOWER_PASSWORD"))
    with httpx.Client(base_url=_from_runner("FLOWER_URL"), auth=login, timeout=15) as http:
        yield http


@pytest.fixture
def simulator() -> Iterator[httpx.Client]:
    """The Claude simulator's admin API, with no faults before and after the test."""
    with httpx.Client(base_url=_from_runner("SIMULATOR_URL"), timeout=15) as http:
        http.delete("/admin/faults").raise_for_status()
        yield http
        http.delete("/admin/faults").raise_for_status()


@pytest.fixture
def outreach(stack: Stack) -> Callable[..., JsonObject]:
    """Makes the body of an outreach run, with changes to its input."""

    def body(**changes: Any) -> JsonObject:
        return {
            "pipeline": "outreach_email",
            "input": {
                "template": (
                    "Dear {{name}},\n\nI read about your work on {{research_topic}} and in "
                    "particular {{recent_paper}}. Could we talk for twenty minutes?\n\n"
                    "Kind regards\n{{sender}}"
                ),
                "template_type": "general",
                "recipient": {"name": "Dr. Elena Marsh", "affiliation": "Northfield University"},
                "sources": [f"{stack.samples_url}/researcher.html"],
                "sender": "Sam Okafor",
            }
            | changes,
        }

    return body
