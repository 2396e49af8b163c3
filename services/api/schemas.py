"""What goes over the wire: the shapes that tests hold stable."""

from datetime import datetime
from decimal import Decimal
from typing import Annotated, Generic, Self, TypeVar
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer, model_validator
from pydantic_core import PydanticCustomError

from services.api.json_values import Json, Metadata, StorableJson
from services.api.pages import Name
from services.core.runs.states import FailureReason, RunMode, RunState, StepState

MAX_PRIORITY = 100
MAX_IDS = 1000
T = TypeVar("T")

Usd = Annotated[
    Decimal, PlainSerializer(float, return_type=float, when_used="json"), Field(examples=[0.0123])
]
BATCH_ID_EXAMPLE = "01932f0b-1c2d-7e44-8f10-6a9b3c5d7e21"
RUN_ID_EXAMPLE = "01932f0c-7a3e-7c1a-9b62-5d1f8c2e4a10"
EMAIL_ID_EXAMPLE = "01932f0c-9d41-7f5e-8a17-2b6c0e9d3f74"
INPUT_EXAMPLE = {
    "template": "Dear {{name}},\n\nI read about {{research_topic}}.\n\n{{sender}}",
    "template_type": "general",
    "recipient": {"name": "Dr. Elena Marsh", "affiliation": "Northfield University"},
    "sender": "Sam Okafor",
}


class Shape(BaseModel):
    """Read from records, documented by attribute docstrings."""

    model_config = ConfigDict(from_attributes=True, use_attribute_docstrings=True)


class CreateRun(Shape):
    """A run to accept."""

    model_config = ConfigDict(extra="forbid")

    pipeline: str = Field(examples=["outreach_email"])
    """Name of a pipeline; `GET /v1/pipelines` lists them."""
    input: StorableJson = Field(examples=[INPUT_EXAMPLE])
    """Fits the pipeline's input schema."""
    priority: int = Field(default=0, ge=-MAX_PRIORITY, le=MAX_PRIORITY)
    """Higher is executed first, within your key: keys take turns, whatever the priorities of their runs."""
    budget_usd: Usd | None = Field(
        default=None, gt=0, le=100_000, decimal_places=6, allow_inf_nan=False
    )
    """Most US dollars that the run may cost. A call to Claude that could exceed it is not made: the run fails with
    reason `budget_exceeded`, and can be replayed with a higher budget."""
    mode: RunMode = RunMode.LIVE
    """`batch` asks Claude through message batches: at half the price, but it may take up to a day."""
    metadata: Metadata = Field(default_factory=dict)
    """Your own notes: a flat object with short values."""


class ReplayRun(Shape):
    """How a run is to go on."""

    model_config = ConfigDict(extra="forbid")

    from_step: Name | None = Field(default=None, examples=["compose_email"])
    """The step to begin with; the checkpoints before it are kept. Without it: the first step that has none."""
    input: StorableJson | None = Field(default=None, examples=[INPUT_EXAMPLE])
    """Another input, which fits the pipeline's input schema. All steps depend on it: `from_step` must be the first."""
    budget_usd: Usd | None = Field(
        default=None, gt=0, le=100_000, decimal_places=6, allow_inf_nan=False
    )
    """Another budget for the whole run. Without `from_step` and `input`, answers that Claude gave are used again."""


class ReplayDeadLetters(Shape):
    """Which failed runs are to go on; a run must fit everything that is given."""

    model_config = ConfigDict(extra="forbid")

    ids: Annotated[list[UUID], Field(min_length=1, max_length=MAX_IDS)] | None = Field(
        default=None, examples=[[RUN_ID_EXAMPLE]]
    )
    """These runs; those among them that have not failed, or are not there, are left out."""
    pipeline: Name | None = Field(default=None, examples=["outreach_email"])
    """Runs of this pipeline."""
    reason: FailureReason | None = None
    """Runs that failed for this reason."""

    @model_validator(mode="after")
    def _refuse_no_filter(self) -> Self:
        if self.ids is None and self.pipeline is None and self.reason is None:
            code, message = "no_filter", "Give at least one of ids, pipeline and reason"
            raise PydanticCustomError(code, message)
        return self


class Replayed(Shape):
    """What was replayed."""

    replayed: int
    """How many runs go on."""
    ids: list[UUID] = Field(examples=[[RUN_ID_EXAMPLE]])
    """Which."""


class Usage(Shape):
    """Tokens, as the Messages API counts them (input_tokens without cached ones)."""

    input_tokens: int
    output_tokens: int
    cache_read_input_tokens: int
    cache_creation_input_tokens: int


class UsageOfToday(Shape):
    """What a key's calls of this UTC day cost."""

    cost_usd: Usd
    reserved_usd: Usd
    """What calls under way can cost at most."""
    doubtful_usd: Usd
    """What calls may have cost whose end nobody saw: counts against the budget."""
    usage: Usage
    daily_budget_usd: Usd | None
    """A call that could exceed it is not made; empty if there is no limit."""


class Failure(Shape):
    """Why a run failed."""

    reason: FailureReason
    step: str | None
    """Step that failed; empty if it was none."""
    message: str
    attempts: int
    """Tries of that step."""


class Step(Shape):
    """One step of a run."""

    name: str = Field(examples=["compose_email"])
    state: StepState
    attempts: int
    """Tries so far."""
    started_at: datetime | None
    finished_at: datetime | None
    usage: Usage
    cost_usd: Usd
    error: str | None
    """What went wrong at the last try; empty if nothing did."""


class Run(Shape):
    """A run, its steps and what they used."""

    id: UUID = Field(examples=[RUN_ID_EXAMPLE])
    pipeline: str = Field(examples=["outreach_email"])
    state: RunState
    """A run that waits for its next try is `queued`, with `next_at`."""
    input: Json = Field(examples=[INPUT_EXAMPLE])
    output: Json | None
    """What the last step gave; empty until the run has succeeded."""
    failure: Failure | None
    """Empty unless the run has failed."""
    metadata: Json
    steps: list[Step]
    usage: Usage
    cost_usd: Usd
    reserved_usd: Usd
    """What its calls to Claude under way can cost at most."""
    budget_usd: Usd | None
    mode: RunMode
    """How it asks Claude."""
    batch_id: UUID | None = Field(examples=[BATCH_ID_EXAMPLE])
    """The batch that it was posted with; empty if it was posted alone."""
    replays: int
    """Times that it was replayed; `GET /v1/runs/{id}/history` shows what was before."""
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    next_at: datetime | None
    """When a queued run is next due."""
    trace_id: str | None = Field(examples=["4bf92f3577b34da6a3ce929d0e0e4736"])
    """Trace of the whole run, from the POST to the last step."""


class PastAttempt(Shape):
    """A run as it was before a replay."""

    number: int
    """1, 2, 3, … within the run."""
    state: RunState
    """`failed` or `cancelled`."""
    input: Json = Field(examples=[INPUT_EXAMPLE])
    output: Json | None
    failure: Failure | None
    """Empty unless it failed."""
    steps: list[Step]
    started_at: datetime | None
    finished_at: datetime | None


class RunHistory(Shape):
    """What a run was before each replay."""

    items: list[PastAttempt]
    """The oldest first; empty if it was never replayed."""


class Email(Shape):
    """An email that a run wrote."""

    id: UUID = Field(examples=[EMAIL_ID_EXAMPLE])
    run_id: UUID = Field(examples=[RUN_ID_EXAMPLE])
    template_type: str = Field(examples=["general"])
    subject: str
    body: str
    metadata: Json = Field(examples=[{"simulated": True}])
    created_at: datetime


class PipelineInfo(Shape):
    """A pipeline and the shapes of what goes in and comes out."""

    name: str = Field(examples=["outreach_email"])
    description: str
    steps: list[str] = Field(examples=[["parse_template", "research", "compose_email"]])
    """The steps' names, in order."""
    input_schema: Json
    """JSON Schema of `input`."""
    output_schema: Json
    """JSON Schema of `output`."""
    input_examples: list[Json]


class PageOf(Shape, Generic[T]):
    """Some items, newest first, and where the next ones begin."""

    items: list[T]
    next_cursor: str | None
    """Pass it as `cursor` for the next page; empty on the last one."""


class RunPage(PageOf[Run]):
    """Runs, newest first."""


class EmailPage(PageOf[Email]):
    """Emails, newest first."""


class PipelineList(Shape):
    """Every pipeline."""

    items: list[PipelineInfo]


class ProblemField(BaseModel):
    """One thing that is wrong with a request."""

    location: str = Field(alias="in", examples=["body"])
    """body, query, header or path"""
    field: str = Field(examples=["/input/template"])
    """JSON Pointer into that place; empty for all of it."""
    message: str = Field(examples=["Field required"])


class Problem(BaseModel):
    """What went wrong (RFC 9457)."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    type: str = Field(examples=["urn:penstock:problem:invalid-request"])
    """Stable name of the kind of problem."""
    title: str
    """The kind of problem in words."""
    status: int
    """The HTTP status."""
    detail: str
    """What happened this time."""
    instance: str = Field(examples=["/v1/runs"])
    """Path of the request."""
    request_id: str | None
    """Also in the header X-Request-Id and in the logs."""
    errors: list[ProblemField] | None = None
    """What is wrong with the request; with `invalid-request` only."""
    known_pipelines: list[str] | None = None
    """The names that exist; with `unknown-pipeline` only."""
