"""The shapes of the record: what the store takes and gives. Plain data, no SQL."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any, Generic, TypeAlias, TypeVar
from uuid import UUID, uuid4

from services.core.runs.states import (
    CallState,
    EventType,
    FailureReason,
    RunMode,
    RunState,
    StepState,
)
from services.core.usage import Usage

Json = dict[str, Any]
Forgotten: TypeAlias = Collection[bytes] | None
"""Questions of a step whose answers are not used again, since a try failed of them; None for all."""
T = TypeVar("T")


def shape_of(pipeline: str, step_names: Sequence[str]) -> str:
    """What a worker must know to execute a run: "outreach_email:parse_template,research".

    A run keeps the shape that it was accepted with, so that a worker of another version, whose
    pipeline of that name has other steps, leaves it to those that know it.
    """
    return f"{pipeline}:{','.join(step_names)}"


def steps_of(shape: str) -> list[str]:
    """The names of the steps in a shape."""
    return shape.partition(":")[2].split(",")


@dataclass(frozen=True, slots=True)
class NewRun:
    """A run as a client asks for it."""

    key_id: UUID
    pipeline: str
    input: Json
    step_names: tuple[str, ...]
    """Names of the pipeline's steps, in order."""
    metadata: Json = field(default_factory=dict)
    priority: int = 0
    """Higher is claimed first."""
    budget_usd: Decimal | None = None
    idempotency_key: str | None = None
    request_hash: bytes | None = None
    """SHA-256 of the canonical request body; another one under the same key is a conflict."""
    traceparent: str | None = None
    """W3C trace context of the request that posted the run."""
    mode: RunMode = RunMode.LIVE
    batch_id: UUID | None = None
    batch_row: int | None = None
    """Its row in the batch: 1, 2, 3, ... as the client sent them."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a run failed."""

    reason: FailureReason
    step: str | None
    message: str
    attempts: int


@dataclass(frozen=True, slots=True)
class StepRecord:
    """One step of a run."""

    name: str
    state: StepState
    attempts: int
    started_at: datetime | None
    finished_at: datetime | None
    usage: Usage
    cost_usd: Decimal
    error: str | None
    output: Json | None


@dataclass(frozen=True, slots=True)
class Run:
    """A run with its steps, as readers see it."""

    id: UUID
    key_id: UUID
    pipeline: str
    state: RunState
    input: Json
    output: Json | None
    failure: Failure | None
    metadata: Json
    priority: int
    steps: tuple[StepRecord, ...]
    usage: Usage
    cost_usd: Decimal
    budget_usd: Decimal | None
    attempts: int
    """Times claimed."""
    crashes: int
    """Deaths of a process that were put down to this run."""
    lapses: int
    """Deaths in a row, since its last checkpoint, that nobody could put down to one run."""
    replays: int
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    next_at: datetime | None
    """When a queued run is next due; None in every other state."""
    trace_id: str | None
    """32 hex digits."""
    mode: RunMode = RunMode.LIVE
    batch_id: UUID | None = None
    batch_row: int | None = None
    reserved_usd: Decimal = Decimal(0)
    """What its calls under way may cost at most."""
    doubtful_usd: Decimal = Decimal(0)
    """What calls may have cost whose end nobody saw; counts against budgets, for ever."""


@dataclass(frozen=True, slots=True)
class PastAttempt:
    """A run as it was before a replay."""

    number: int
    """1, 2, 3, ... within the run."""
    state: RunState
    input: Json
    output: Json | None
    failure: Failure | None
    steps: tuple[StepRecord, ...]
    started_at: datetime | None
    finished_at: datetime | None


@dataclass(frozen=True, slots=True)
class CallOpening:
    """A call to Claude that is about to be made."""

    step: str
    question: bytes
    """SHA-256 of what is asked."""
    number: int
    """0, 1, ... for the same question again within one try."""
    model: str
    worst_usd: Decimal
    """What it can cost at most."""
    request: Json | None = None
    """The parameters that go to Claude; in batch mode only."""
    is_batch: bool = False
    """It waits for a message batch instead of being made at once."""
    reservation: UUID = field(default_factory=uuid4)
    """Tells this call from others; the same once more, after an outage, is one call."""


@dataclass(frozen=True, slots=True)
class OpenCall:
    """A call that may be made: what it can cost at most is reserved."""

    reservation: UUID
    answer: Json | None = None
    """It need not be made: an earlier holder of the run has had this answer meanwhile."""


@dataclass(frozen=True, slots=True)
class PastCall:
    """A call that an earlier try of the step has opened."""

    step: str
    question: bytes
    number: int
    state: CallState
    answer: Json | None
    """What settle_call was given."""
    reservation: UUID


@dataclass(frozen=True, slots=True)
class Lease:
    """The sole right to execute a run, until it lapses; the fence tells it from other leases."""

    run_id: UUID
    key_id: UUID
    fence: int
    pipeline: str
    input: Json
    checkpoints: dict[str, Json]
    """Outputs of the steps that succeeded already, by step name."""
    step_attempts: dict[str, int]
    """Failed tries of each step, by step name; neither crashes nor give-backs count."""
    traceparent: str | None
    created_at: datetime
    remaining_s: float
    """Seconds until the run's deadline, by the database's clock at the claim."""
    shape: str | None
    """See shape_of; None for a run that was accepted before shapes were recorded."""
    budget_usd: Decimal | None = None
    is_on_probation: bool = False
    """It is alone only because it shared processes that died; a checkpoint clears it."""
    mode: RunMode = RunMode.LIVE
    calls: tuple[PastCall, ...] = ()
    """The calls of steps that have no checkpoint yet."""
    started_attempt: int | None = None
    """The claim has started the first step without a checkpoint: this try of it, counted as start_step
    counts. None if nothing was started."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a finished step leaves behind."""

    step: str
    output: Json


@dataclass(frozen=True, slots=True)
class NewEmail:
    """An email that a run wrote; stored in the transaction that finishes the run."""

    id: UUID
    template_type: str
    subject: str
    body: str
    metadata: Json


@dataclass(frozen=True, slots=True)
class Email:
    """A stored email."""

    id: UUID
    run_id: UUID
    template_type: str
    subject: str
    body: str
    metadata: Json
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to a run; seq counts 1, 2, 3, … within the run, without gaps."""

    run_id: UUID
    seq: int
    type: EventType
    data: Json
    at: datetime


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key of the API; the key itself is not stored."""

    id: UUID
    prefix: str
    name: str
    key_hash: bytes
    is_revoked: bool
    daily_budget_usd: Decimal | None = None
    """What its runs may cost per UTC day."""
    max_running: int | None = None
    """Runs that are executed at once."""


@dataclass(frozen=True, slots=True)
class KeyDay:
    """What a key's calls of one UTC day cost, or may cost."""

    cost_usd: Decimal
    reserved_usd: Decimal
    """What calls under way may cost at most."""
    doubtful_usd: Decimal
    """What calls may have cost whose end nobody saw."""
    usage: Usage


@dataclass(frozen=True, slots=True)
class DueHint:
    """A run that is due and for which no fresh hint is on its way."""

    run_id: UUID
    is_isolated: bool


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """Some items and where the next ones begin."""

    items: tuple[T, ...]
    next_cursor: str | None


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """The last sign of life of a process."""

    process: str
    kind: str
    """worker, beat, ..."""
    age_s: float


@dataclass(frozen=True, slots=True)
class StepTotals:
    """What one step of a pipeline did and cost, over all runs in the record."""

    pipeline: str
    step: str
    succeeded: int
    failures: int
    """Tries that failed, retried or not."""
    duration_s: float
    """Seconds of the tries that succeeded, added up."""
    durations: dict[float, int]
    """How many of them took at most so many seconds: cumulative, as in a Prometheus histogram."""
    usage: Usage
    cost_usd: Decimal


@dataclass(frozen=True, slots=True)
class RunTotals:
    """The record in numbers."""

    runs_by_state: dict[RunState, int]
    """Every state, also those without a run."""
    failures_by_reason: dict[FailureReason, int]
    """Every reason, also those without a run."""
    due_runs: int
    """Queued runs that could be claimed now."""
    oldest_due_age_s: float
    """Seconds that the oldest of them has been due; 0 if there is none."""
    unclaimable_runs: int
    """Due for long, and of a shape that no living process knows."""
    waiting_calls: int
    """Calls that go into the next message batch."""
    submitted_calls: int
    """Calls in message batches that have not ended."""
    open_message_batches: int
    """Message batches that have not ended."""
    steps: tuple[StepTotals, ...]
