"""What goes over the wire about batches of runs."""

from datetime import datetime
from typing import Annotated, Any, Final
from uuid import UUID

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError

from services.api.batch_rows import MAX_ROWS
from services.api.errors import InvalidRequestError
from services.api.json_values import Json, Metadata, StorableJson
from services.api.schemas import (
    BATCH_ID_EXAMPLE,
    INPUT_EXAMPLE,
    MAX_PRIORITY,
    Failure,
    PageOf,
    Shape,
    Usd,
)
from services.api.validation import describe_validation
from services.core.runs.states import RunMode, RunState

SHOWN_ERRORS: Final = 100
"""Errors of rows that the answer to a POST shows; the rest is a page away."""


class BatchMembers(Shape):
    """What the runs of a batch have in common."""

    model_config = ConfigDict(extra="forbid")

    pipeline: str = Field(examples=["outreach_email"])
    """Name of a pipeline; `GET /v1/pipelines` lists them."""
    mode: RunMode = RunMode.LIVE
    """`batch` sends the calls to Claude through the Message Batches API: half the price, up to a day."""
    priority: int = Field(default=0, ge=-MAX_PRIORITY, le=MAX_PRIORITY)
    """Higher is executed first."""
    budget_usd: Usd | None = Field(
        default=None, gt=0, le=100_000, decimal_places=6, allow_inf_nan=False
    )
    """Most US dollars that each run may cost."""
    metadata: Metadata = Field(default_factory=dict)
    """Your own notes, of the batch and of each of its runs: a flat object with short values."""


class CreateBatch(BatchMembers):
    """A batch of runs to accept."""

    inputs: list[StorableJson] = Field(
        min_length=1, max_length=MAX_ROWS, examples=[[INPUT_EXAMPLE]]
    )
    """An input for each run. Bad ones are reported; good ones run."""


class RowError(Shape):
    """One thing that is wrong with a row, which is therefore no run."""

    row: int
    """1, 2, 3, … as you sent: the place in `inputs`, the line, or the row after the header."""
    field: str = Field(examples=["/recipient/name"])
    """JSON Pointer into the row's input; empty for all of it."""
    message: str = Field(examples=["Field required"])


class BatchSummary(Shape):
    """What does not change about a batch."""

    id: UUID = Field(examples=[BATCH_ID_EXAMPLE])
    pipeline: str = Field(examples=["outreach_email"])
    mode: RunMode
    metadata: Json
    total: int
    """Rows, bad ones included."""
    accepted: int
    """Rows that became runs."""
    rejected: int
    """Bad rows."""
    created_at: datetime


class Counts(Shape):
    """How many runs of a batch are in each state."""

    queued: int
    running: int
    succeeded: int
    failed: int
    cancelled: int


class BatchState(Shape):
    """How far a batch is."""

    counts: Counts
    progress: float = Field(ge=0, le=1)
    """The part of its runs that has ended."""
    cost_usd: Usd
    """Of all its runs so far."""
    eta_s: float | None
    """Seconds until all have ended, at the rate of the last minute; empty while none has ended in it."""
    finished_at: datetime | None
    """When the last run ended; empty while one has not."""


class Batch(BatchSummary, BatchState):
    """A batch and how far it is."""


class AcceptedBatch(Batch):
    """A batch that was accepted, and what was wrong with its bad rows."""

    errors: list[RowError]
    """The first 100; `GET /v1/batches/{id}/errors` has all."""


class BatchPage(PageOf[BatchSummary]):
    """Batches, newest first."""


class RowErrorPage(PageOf[RowError]):
    """What was wrong with bad rows, in their order."""


class BatchResult(Shape):
    """What became of a row that became a run."""

    row: int
    run_id: UUID
    state: RunState
    output: Json | None
    """What the last step gave; empty unless the run has succeeded."""
    failure: Failure | None
    """Empty unless the run has failed."""
    cost_usd: Usd


class Retried(Shape):
    """What is tried again."""

    replayed: int
    """How many failed runs go on."""


def _parse_metadata(text: object) -> object:
    return _ANY_JSON.validate_json(text) if isinstance(text, str) else text


_ANY_JSON: Final[TypeAdapter[Any]] = TypeAdapter(Any)


class BatchQuery(BaseModel):
    """What the runs of a batch have in common, where the body holds rows only (NDJSON, CSV)."""

    model_config = ConfigDict(extra="forbid")

    pipeline: str | None = Field(default=None, max_length=64, examples=["outreach_email"])
    mode: RunMode | None = None
    priority: int | None = Field(default=None, ge=-MAX_PRIORITY, le=MAX_PRIORITY)
    budget_usd: float | None = Field(default=None, gt=0, le=100_000, allow_inf_nan=False)
    metadata: str | None = Field(
        default=None, max_length=100_000, description="A JSON object.", examples=['{"a": 1}']
    )
    columns: list[str] = Field(
        default=[],
        max_length=1000,
        description=(
            "CSV only, once for each column that is used: `FIELD=COLUMN`. A field is a JSON Pointer "
            "(`/recipient/name`) or a dotted name (`recipient.name`) into the input. "
            "Without any, the header itself names the fields."
        ),
        examples=[["recipient.name=Full name"]],
    )


class _QueryMembers(BatchMembers):
    """The same as text."""

    metadata: Annotated[Metadata, BeforeValidator(_parse_metadata)] = Field(default_factory=dict)


def members_of_query(query: BatchQuery) -> BatchMembers:
    """What the parameters say about the runs.

    Raises:
        InvalidRequestError: They do not say it right.
    """
    given = query.model_dump(exclude={"columns"}, exclude_none=True)
    return _validated(_QueryMembers, given, place="query")


def members_of_body(members: Json) -> BatchMembers:
    """What a JSON body says about the runs.

    Raises:
        InvalidRequestError: It does not say it right.
    """
    return _validated(BatchMembers, members, place="body")


def _validated(model: type[BatchMembers], given: Json, *, place: str) -> BatchMembers:
    try:
        return model.model_validate(given)
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False, include_input=False)
        located = [{**item, "loc": (place, *item["loc"])} for item in found]
        raise InvalidRequestError(describe_validation(located, body=given)) from error
