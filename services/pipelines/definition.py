"""What a pipeline is: typed steps in a row, each taking what the one before gave."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, Generic, Protocol, TypeVar, get_type_hints
from uuid import UUID

from pydantic import BaseModel

from services.core.claude.protocol import Answer, ClaudeReply, ClaudeRequest

StepFunction = Callable[[Any, "StepContext"], Awaitable[BaseModel]]
RunOutput = TypeVar("RunOutput", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class WebPage:
    """A source that was read: its final address, title and text."""

    url: str
    title: str | None
    text: str


class Web(Protocol):
    """Reads public web pages; private addresses are refused."""

    async def read_page(self, url: str) -> WebPage:
        """Fetch a page and extract its text.

        Raises:
            StepInputError: The address is refused, absent (4xx) or holds no text.
            StepTransientError: It does not answer, or answers with 5xx.
        """
        ...

    async def read_feed(self, url: str, params: dict[str, str]) -> bytes:
        """Fetch a feed's bytes; errors as in read_page."""
        ...


class StepClaude(Protocol):
    """Claude for one step: usage is counted and text streamed to those who watch the run."""

    async def ask(self, request: ClaudeRequest, answer_type: type[Answer]) -> ClaudeReply[Answer]:
        """Get an answer of the given type; see services.core.claude.protocol.Claude.ask."""
        ...


@dataclass(frozen=True, slots=True)
class StepContext:
    """What a step may use besides its input."""

    run_id: UUID
    step: str
    attempt: int
    """1 for the first try of this step."""
    claude: StepClaude
    web: Web
    arxiv_url: str
    """The arXiv API's query address."""


@cache
def _hints_of(function: StepFunction) -> dict[str, Any]:
    """The types of a step function; kept, for they are asked for with each run."""
    return get_type_hints(function)


@dataclass(frozen=True, slots=True)
class Step:
    """One function of a pipeline; its output is checkpointed under its name."""

    function: StepFunction

    @property
    def name(self) -> str:
        """The function's name."""
        return self.function.__name__

    @property
    def input_type(self) -> type[BaseModel]:
        """The model that the step takes."""
        first: type[BaseModel] = next(iter(_hints_of(self.function).values()))
        return first

    @property
    def output_type(self) -> type[BaseModel]:
        """The model that the step gives."""
        given: type[BaseModel] = _hints_of(self.function)["return"]
        return given


@dataclass(frozen=True, slots=True)
class EmailDraft:
    """An email that a finished run leaves in the record."""

    id: UUID
    template_type: str
    subject: str
    body: str
    metadata: dict[str, Any]


@dataclass(frozen=True)
class Pipeline(Generic[RunOutput]):
    """Steps in a row. The first takes the run's input, the last gives its output."""

    name: str
    description: str
    steps: tuple[Step, ...]
    email_of: Callable[[RunOutput], EmailDraft] | None = None
    """The email that the output stands for, stored when the run finishes."""
    input_examples: tuple[dict[str, Any], ...] = ()

    def __post_init__(self) -> None:
        """Refuse steps that do not fit together."""
        if not self.steps or len(set(self.step_names)) < len(self.steps):
            raise TypeError(f"{self.name} needs steps of different names")
        for before, after in zip(self.steps, self.steps[1:], strict=False):
            if before.output_type is not after.input_type:
                message = (
                    f"{self.name}: {before.name} gives {before.output_type.__name__}, "
                    f"but {after.name} takes {after.input_type.__name__}"
                )
                raise TypeError(message)

    @cached_property
    def input_type(self) -> type[BaseModel]:
        """The model of the run's input."""
        return self.steps[0].input_type

    @property
    def output_type(self) -> type[BaseModel]:
        """The model of the run's output."""
        return self.steps[-1].output_type

    @cached_property
    def step_names(self) -> tuple[str, ...]:
        """The steps' names, in order."""
        return tuple(step.name for step in self.steps)
