"""What the API works with, and how routes get it."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Protocol

from fastapi import Depends, Request

from config.anthropic import AnthropicSettings
from config.api import ApiSettings
from config.environment import Environment
from services.api.run_texts import TextBoard
from services.core.queue.publisher import HintPublisher
from services.core.runs.store import RunStore
from services.pipelines.definition import Pipeline


class Redis(Protocol):
    """What the API asks of Redis: whether it is there and takes writes."""

    async def write(self) -> Any:
        """Take a write, or raise."""
        ...


class TextSource(Protocol):
    """Where the texts of answers that are being written come from."""

    board: TextBoard

    async def listen(self) -> float:
        """Take what comes; a turn of services.api.background."""
        ...

    async def read(self) -> float:
        """Ask for what is there; likewise."""
        ...


@dataclass(frozen=True, slots=True)
class Dependencies:
    """Everything from outside that the API uses; built in app.py, or by a test."""

    settings: ApiSettings
    environment: Environment
    anthropic: AnthropicSettings
    sweep_interval_s: float
    store: RunStore
    publisher: HintPublisher
    redis: Redis
    texts: TextSource
    pipelines: Mapping[str, Pipeline[Any]]
    close: Callable[[], Awaitable[None]]
    """Closes what was opened on the way; called when the process stops."""

    @property
    def is_development(self) -> bool:
        """Whether weak settings are tolerated."""
        return self.environment is Environment.DEVELOPMENT


async def get_dependencies(request: Request) -> Dependencies:
    """The app's dependencies."""
    dependencies: Dependencies = request.app.state.dependencies
    return dependencies


async def get_store(request: Request) -> RunStore:
    """The record."""
    return (await get_dependencies(request)).store


Deps = Annotated[Dependencies, Depends(get_dependencies)]
Store = Annotated[RunStore, Depends(get_store)]
