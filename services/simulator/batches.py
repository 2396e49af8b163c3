"""Message batches: what was asked, how far it is, what came of it."""

import asyncio
import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Annotated, Any, Self

from pydantic import BaseModel, Field, StringConstraints, model_validator

from services.core.clock import utc_now
from services.simulator.errors import ApiError, InvalidRequestError

LIFETIME = timedelta(hours=24)
MAX_REQUESTS = 100_000
"""The API's limit."""


class BatchRequest(BaseModel):
    """One request of a batch. Its params are judged when it is worked on, as the API does it."""

    custom_id: Annotated[str, StringConstraints(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]
    params: dict[str, Any]


class BatchBody(BaseModel):
    """The body of POST /v1/messages/batches."""

    requests: list[BatchRequest] = Field(min_length=1, max_length=MAX_REQUESTS)

    @model_validator(mode="after")
    def _tell_requests_apart(self) -> Self:
        counts = Counter(request.custom_id for request in self.requests)
        repeated = [custom_id for custom_id, count in counts.items() if count > 1]
        if repeated:
            raise ValueError(f"requests: custom_id must be unique, {repeated[0]} is not")
        return self


class BatchRules(BaseModel, extra="forbid"):
    """How batches go."""

    seconds: float | None = Field(default=None, ge=0)
    """From creation to end; also of batches that are under way. None: as configured."""
    errored_rate: float = Field(default=0, ge=0, le=1)
    """Share of the requests that end as errored."""
    expired_rate: float = Field(default=0, ge=0, le=1)
    error_type: str = "api_error"
    """What the errored ones say."""
    seed: int = 0
    """Another one: other requests fail, and results come in another order."""

    @model_validator(mode="after")
    def _share_out_once(self) -> Self:
        if self.errored_rate + self.expired_rate > 1:
            raise ValueError("errored_rate and expired_rate are more than all together")
        return self


class ResultType(StrEnum):
    """What came of a request."""

    SUCCEEDED = "succeeded"
    ERRORED = "errored"
    EXPIRED = "expired"
    CANCELED = "canceled"


@dataclass(slots=True)
class Batch:
    """One message batch."""

    requests: Sequence[BatchRequest]
    """Empty once it has ended."""
    number: int
    size: int
    id: str = field(default_factory=lambda: f"msgbatch_sim_{uuid.uuid4().hex[:24]}")
    created_at: datetime = field(default_factory=utc_now)
    cancel_initiated_at: datetime | None = None
    ended_at: datetime | None = None
    counts: Counter[ResultType] = field(default_factory=Counter)
    results: list[bytes] = field(default_factory=list)
    """Lines of JSON in the order in which they are given."""

    def cancel(self) -> None:
        """Ask that what is not done be left out.

        Raises:
            InvalidRequestError: It has ended.
        """
        if self.ended_at is not None:
            raise InvalidRequestError(f"Batch {self.id} has ended and cannot be canceled")
        self.cancel_initiated_at = self.cancel_initiated_at or utc_now()

    def end(self, results: list[bytes], counts: Counter[ResultType]) -> None:
        """All its requests have ended."""
        self.results, self.counts = results, counts
        self.requests = ()
        self.ended_at = utc_now()

    def describe(self, base_url: str) -> dict[str, Any]:
        """The batch as the API gives it, to a client that knows the simulator by this URL."""
        return {
            "id": self.id,
            "type": "message_batch",
            "processing_status": self._status,
            "request_counts": {
                "processing": 0 if self.ended_at else self.size,
                **{kind.value: self.counts[kind] for kind in ResultType},
            },
            "created_at": self.created_at.isoformat(),
            "expires_at": (self.created_at + LIFETIME).isoformat(),
            "ended_at": self.ended_at.isoformat() if self.ended_at else None,
            "cancel_initiated_at": (
                self.cancel_initiated_at.isoformat() if self.cancel_initiated_at else None
            ),
            "archived_at": None,
            "results_url": (
                f"{base_url}v1/messages/batches/{self.id}/results" if self.ended_at else None
            ),
        }

    @property
    def _status(self) -> str:
        if self.ended_at:
            return "ended"
        return "canceling" if self.cancel_initiated_at else "in_progress"


class BatchBoard:
    """The batches of this process; they stay until they are deleted."""

    def __init__(self, *, seconds: float) -> None:
        """Start without any.

        Args:
            seconds: From a batch's creation to its end, where the rules do not say.
        """
        self.rules = BatchRules()
        self.changed = asyncio.Condition()
        """Notified when a batch or the rules have changed."""
        self._seconds = seconds
        self._batches: dict[str, Batch] = {}
        self._number = 0

    @property
    def seconds(self) -> float:
        """From a batch's creation to its end."""
        return self._seconds if self.rules.seconds is None else self.rules.seconds

    def put(self, rules: BatchRules) -> None:
        """Set the rules; counting starts anew, so that the same batches go the same way again."""
        self.rules = rules
        self._number = 0

    def add(self, requests: Sequence[BatchRequest]) -> Batch:
        """A new batch."""
        self._number += 1
        batch = Batch(requests, number=self._number, size=len(requests))
        self._batches[batch.id] = batch
        return batch

    def get(self, batch_id: str) -> Batch:
        """A batch.

        Raises:
            ApiError: There is none with that id.
        """
        if batch_id not in self._batches:
            raise ApiError(404, "not_found_error", f"Batch {batch_id} not found")
        return self._batches[batch_id]

    def delete(self, batch_id: str) -> None:
        """Forget a batch.

        Raises:
            ApiError: There is none with that id, or it has not ended.
        """
        if self.get(batch_id).ended_at is None:
            raise InvalidRequestError(f"Batch {batch_id} has not ended: cancel it first")
        del self._batches[batch_id]

    @property
    def newest_first(self) -> list[Batch]:
        """All batches."""
        return list(reversed(self._batches.values()))
