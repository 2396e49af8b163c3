"""The API on an in-memory record: no socket, no clock but the event loop's."""

from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import httpx
import pytest
from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field

from config.anthropic import AnthropicSettings
from config.api import ApiSettings
from config.environment import Environment
from services.api.app import create_app
from services.api.dependencies import Dependencies
from services.api.run_texts import TextBoard
from services.core.runs.keys import generate_key, parse_key
from services.pipelines.definition import Pipeline, Step, StepContext
from tests.fakes.run_store import InMemoryRunStore

MAX_BODY_BYTES = 4096


class Mood(BaseModel):
    """One of the shapes that a mood may have."""

    level: int


class LetterInput(BaseModel):
    """A small input with each kind of thing that can be wrong."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(min_length=1)
    lines: list[str] = []
    options: dict[str, int] = {}
    mood: Mood | list[int] | None = None


class LetterOutput(BaseModel):
    """A small output."""

    text: str


async def write_letter(letter: LetterInput, context: StepContext) -> LetterOutput:
    """Never called: the API only describes steps."""
    raise NotImplementedError


LETTER: Pipeline[LetterOutput] = Pipeline(
    name="letter",
    description="Writes a letter.",
    steps=(Step(write_letter),),
    input_examples=({"name": "Elena"},),
)


class RecordingPublisher:
    """Notes the hints that it is asked to send."""

    def __init__(self) -> None:
        self.hints: list[tuple[UUID, bool]] = []
        self.is_started = False

    def start(self) -> None:
        """Note the start."""
        self.is_started = True

    def hint(self, run_id: UUID, *, is_isolated: bool = False) -> None:
        """Note the hint."""
        self.hints.append((run_id, is_isolated))

    def close(self, timeout_s: float = 2.0) -> None:
        """Note the end."""
        self.is_started = False


class FakeRedis:
    """Answers, or fails as told."""

    def __init__(self) -> None:
        self.error: Exception | None = None

    async def write(self) -> None:
        """Take it, or fail."""
        if self.error:
            raise self.error


class SilentTexts:
    """A text feed to whose board tests put texts."""

    def __init__(self) -> None:
        self.board = TextBoard()

    async def listen(self) -> float:
        """Hear nothing."""
        return 60

    async def read(self) -> float:
        """Find nothing."""
        return 60


async def close_nothing() -> None:
    """Fakes hold nothing."""


@pytest.fixture
def store() -> InMemoryRunStore:
    """The record."""
    return InMemoryRunStore()


@pytest.fixture
def publisher() -> RecordingPublisher:
    """Where hints go."""
    return RecordingPublisher()


@pytest.fixture
def redis() -> FakeRedis:
    """Redis."""
    return FakeRedis()


@pytest.fixture
def texts() -> SilentTexts:
    """Texts of answers that are being written."""
    return SilentTexts()


@pytest.fixture
def dependencies(
    store: InMemoryRunStore, publisher: RecordingPublisher, redis: FakeRedis, texts: SilentTexts
) -> Dependencies:
    """What the API works with; Claude is simulated."""
    return Dependencies(
        settings=ApiSettings(max_body_bytes=MAX_BODY_BYTES),
        environment=Environment.DEVELOPMENT,
        anthropic=AnthropicSettings(simulator_url="http://simulator:8080"),
        sweep_interval_s=60,
        store=store,  # type: ignore[arg-type]  # it has the methods that the API uses
        publisher=publisher,  # type: ignore[arg-type]  # likewise
        redis=redis,
        texts=texts,
        pipelines={"letter": LETTER},
        close=close_nothing,
    )


@pytest.fixture
async def app(dependencies: Dependencies) -> AsyncIterator[FastAPI]:
    """The API, started."""
    app = create_app(dependencies)
    async with app.router.lifespan_context(app):
        yield app


async def add_key(store: InMemoryRunStore) -> str:
    """Store a new key; its text."""
    text = generate_key()
    parsed = parse_key(text)
    assert parsed is not None
    prefix, key_hash = parsed
    await store.add_key(name="test", prefix=prefix, key_hash=key_hash)
    return text


def client_of(app: FastAPI, key: str | None = None) -> httpx.AsyncClient:
    """A client that gets the 500 answers that a server would send."""
    return httpx.AsyncClient(
        transport=httpx.ASGITransport(app, raise_app_exceptions=False),
        base_url="http://api",
        headers={"Authorization": f"Bearer {key}"} if key else {},
    )


@pytest.fixture
async def client(app: FastAPI, store: InMemoryRunStore) -> AsyncIterator[httpx.AsyncClient]:
    """A client with a key."""
    async with client_of(app, await add_key(store)) as client:
        yield client


@pytest.fixture
async def other_client(app: FastAPI, store: InMemoryRunStore) -> AsyncIterator[httpx.AsyncClient]:
    """A client with another key."""
    async with client_of(app, await add_key(store)) as client:
        yield client


@pytest.fixture
async def stranger(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    """A client without a key."""
    async with client_of(app) as client:
        yield client


@pytest.fixture
def letter() -> dict[str, Any]:
    """The body of a run that is as it should be."""
    return {"pipeline": "letter", "input": {"name": "Elena"}}


async def post_run(client: httpx.AsyncClient, **changes: Any) -> UUID:
    """Post a run that must be accepted; its id."""
    body = {"pipeline": "letter", "input": {"name": "Elena"}} | changes
    answer = await client.post("/v1/runs", json=body)
    assert answer.status_code == 202, answer.text
    return UUID(answer.json()["id"])
