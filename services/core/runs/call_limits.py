"""What the record knows of Claude's limits, for those who look at it."""

from dataclasses import dataclass
from enum import StrEnum

from services.core.db import Database
from services.core.pool import Row
from services.core.runs.limit_state import Bucket, Caps, LimitState
from services.core.runs.sql import statement

LIST_LIMITS = statement(
    """
    SELECT model, state, extract(epoch FROM clock_timestamp())::double precision AS now_s
      FROM claude_limits
     ORDER BY model
    """
)


class BreakerState(StrEnum):
    """Whether a model is asked at all."""

    CLOSED = "closed"
    """It is."""
    OPEN = "open"
    """It is not: it failed several times in a row."""
    HALF_OPEN = "half_open"
    """One call tries whether it works again."""


@dataclass(frozen=True, slots=True)
class CallLimits:
    """The limits of a model as all workers share them."""

    model: str
    requests_per_min: float | None
    """Learned, or set if that is less; None while nothing is known."""
    input_tokens_per_min: float | None
    output_tokens_per_min: float | None
    requests_left: float | None
    """What could be used at once; below zero if it is promised in advance."""
    input_tokens_left: float | None
    output_tokens_left: float | None
    rate_factor: float
    """Share of the limits that is used: below 1 after a 429 or an overload."""
    paused_for_s: float
    """Seconds for which nobody calls; 0 if all may."""
    breaker: BreakerState
    calls_in_flight: int


async def list_call_limits(database: Database) -> list[CallLimits]:
    """The limits of every model that was called, by name."""
    return [_limits(row) for row in await database.fetch(LIST_LIMITS)]


def _limits(row: Row) -> CallLimits:
    """The limits from their row, as of now."""
    state = LimitState.from_json(row.state)
    state.advance(row.now_s, Caps())
    return CallLimits(
        model=row.model,
        requests_per_min=state.requests.limit,
        input_tokens_per_min=state.input_tokens.limit,
        output_tokens_per_min=state.output_tokens.limit,
        requests_left=_left(state.requests),
        input_tokens_left=_left(state.input_tokens),
        output_tokens_left=_left(state.output_tokens),
        rate_factor=state.factor,
        paused_for_s=max(0.0, state.paused_until_s - row.now_s),
        breaker=_breaker(state, row.now_s),
        calls_in_flight=round(state.in_flight.requests),
    )


def _left(bucket: Bucket) -> float | None:
    return None if bucket.limit is None else bucket.level


def _breaker(state: LimitState, now_s: float) -> BreakerState:
    if not state.is_breaker_open:
        return BreakerState.CLOSED
    return BreakerState.OPEN if now_s < state.open_until_s else BreakerState.HALF_OPEN
