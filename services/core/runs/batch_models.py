"""The shapes of batches of runs: what the store takes and gives. Plain data, no SQL."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from uuid import UUID

from services.core.runs.models import Failure, Json
from services.core.runs.states import RunMode, RunState


@dataclass(frozen=True, slots=True)
class NewBatch:
    """Runs of one pipeline as a client asks for them together; their inputs come in chunks."""

    key_id: UUID
    pipeline: str
    step_names: tuple[str, ...]
    mode: RunMode = RunMode.LIVE
    metadata: Json = field(default_factory=dict)
    """Of the batch, and of each of its runs."""
    priority: int = 0
    budget_usd: Decimal | None = None
    """Of each run."""
    idempotency_key: str | None = None
    request_hash: bytes | None = None
    """SHA-256 of the request; another one under the same key is a conflict."""
    traceparent: str | None = None
    """W3C trace context of the request that posted the batch."""


@dataclass(frozen=True, slots=True)
class BatchRow:
    """An input that a run is to be made of."""

    row: int
    """1, 2, 3, ... as the client sent."""
    input: str
    """JSON, as services.core.runs.encoding writes it: ten thousand texts take less room than objects."""


@dataclass(frozen=True, slots=True)
class RowError:
    """One thing that is wrong with a row, which is therefore no run."""

    row: int
    """1, 2, 3, ... as the client sent."""
    number: int
    """1, 2, ... within the row."""
    field: str
    """JSON pointer into the input; empty for all of it."""
    message: str


@dataclass(frozen=True, slots=True)
class BatchChunk:
    """A part of a batch's rows: good ones, and what is wrong with bad ones."""

    rows: Sequence[BatchRow]
    errors: Sequence[RowError]


@dataclass(frozen=True, slots=True)
class AcceptedBatch:
    """A batch's identity once it is committed."""

    batch_id: UUID
    is_new: bool
    first_run_ids: Sequence[UUID] = ()
    """Of a few of its runs, to hint; none if it was there before."""


@dataclass(frozen=True, slots=True)
class Batch:
    """What does not change about a batch."""

    id: UUID
    key_id: UUID
    pipeline: str
    mode: RunMode
    metadata: Json
    total: int
    """Rows, bad ones included."""
    rejected: int
    """Bad rows: no run."""
    created_at: datetime

    @property
    def accepted(self) -> int:
        """Rows that became runs."""
        return self.total - self.rejected


@dataclass(frozen=True, slots=True)
class BatchProgress(Batch):
    """A batch and how far it is."""

    counts: dict[RunState, int]
    """Its runs, by state."""
    cost_usd: Decimal
    finished_at: datetime | None
    """When the last of its runs ended; None while one has not."""
    eta_s: float | None
    """Seconds until all have ended, at the rate of the last minute; None if none has ended in it."""
    at: datetime
    """When this was so, by the database's clock."""

    @property
    def progress(self) -> float:
        """The part of its runs that has ended, from 0 to 1."""
        going_on = self.counts[RunState.QUEUED] + self.counts[RunState.RUNNING]
        return 1 - going_on / self.accepted


@dataclass(frozen=True, slots=True)
class BatchResult:
    """What became of a row that became a run."""

    row: int
    run_id: UUID
    state: RunState
    output: Json | None
    failure: Failure | None
    cost_usd: Decimal
