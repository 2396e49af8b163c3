"""Rate limits per model, as Claude's API enforces and reports them."""

import math
from collections.abc import Callable
from datetime import timedelta
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, Field

from config.simulator import SimulatorSettings
from services.core.clock import monotonic_s, utc_now
from services.simulator.errors import ApiError
from services.simulator.token_bucket import TokenBucket

ANY_MODEL = "*"
ROUNDED_FROM = 10_000
"""The API rounds what is left of a token limit to thousands. Below that, which no real limit is, we do not."""


class Kind(StrEnum):
    """What is limited, by its name in the headers."""

    REQUESTS = "requests"
    INPUT_TOKENS = "input-tokens"
    OUTPUT_TOKENS = "output-tokens"


class Limits(BaseModel, extra="forbid"):
    """The limits of a model; None: this is not limited."""

    model: str = Field(default=ANY_MODEL, min_length=1)
    """`*`: every model that has no limits of its own; each has a bucket of its own."""
    requests_per_min: int | None = Field(default=None, ge=1)
    input_tokens_per_min: int | None = Field(default=None, ge=1)
    """Without what is read from the cache."""
    output_tokens_per_min: int | None = Field(default=None, ge=1)
    """Counted as they are produced: max_tokens does not matter."""
    burst_s: float = Field(default=60, gt=0)
    """Seconds of the limits that can be used at once after a pause."""

    @property
    def per_minute(self) -> dict[Kind, int]:
        """The limits that there are."""
        found = {
            Kind.REQUESTS: self.requests_per_min,
            Kind.INPUT_TOKENS: self.input_tokens_per_min,
            Kind.OUTPUT_TOKENS: self.output_tokens_per_min,
        }
        return {kind: limit for kind, limit in found.items() if limit is not None}


class ModelLimits:
    """What one model has left."""

    def __init__(self, limits: Limits, *, clock: Callable[[], float] = monotonic_s) -> None:
        """Start with full buckets."""
        self._buckets = {
            kind: TokenBucket(limit, burst_s=limits.burst_s, clock=clock)
            for kind, limit in limits.per_minute.items()
        }

    def admit(self, model: str, *, input_tokens: int) -> None:
        """Let a call in and count it, or refuse it and count nothing.

        Raises:
            ApiError: There is no room: 429, with the whole seconds until there is.
        """
        wanted = {Kind.REQUESTS: 1, Kind.INPUT_TOKENS: input_tokens, Kind.OUTPUT_TOKENS: 1}
        waits = {kind: bucket.wait_s(wanted[kind]) for kind, bucket in self._buckets.items()}
        longest = max(waits, key=waits.__getitem__, default=None)
        if longest is not None and waits[longest] > 0:
            raise self._refusal(longest, model, waits[longest])
        self._take(Kind.REQUESTS, 1)
        self._take(Kind.INPUT_TOKENS, input_tokens)

    def produce(self, output_tokens: int) -> None:
        """Count tokens of an answer under way. It is not cut off: what is too much, later calls wait for."""
        self._take(Kind.OUTPUT_TOKENS, output_tokens)

    def headers(self) -> dict[str, str]:
        """The `anthropic-ratelimit-*` headers of an answer that is sent now."""
        return {
            f"anthropic-ratelimit-{kind}-{name}": str(value)
            for kind in self._buckets
            for name, value in self._left(kind).items()
        }

    def state(self) -> dict[str, dict[str, int | str]]:
        """Limit, what is left of it and when it is whole again, for each kind."""
        return {kind.replace("-", "_"): self._left(kind) for kind in self._buckets}

    def _take(self, kind: Kind, amount: int) -> None:
        if kind in self._buckets:
            self._buckets[kind].take(amount)

    def _left(self, kind: Kind) -> dict[str, int | str]:
        bucket = self._buckets[kind]
        limit = bucket.per_minute
        remaining = max(0, math.floor(bucket.level))
        if kind is not Kind.REQUESTS and limit >= ROUNDED_FROM:
            remaining = min(limit, round(remaining, -3))
        reset = utc_now() + timedelta(seconds=math.ceil(bucket.full_in_s))
        return {"limit": limit, "remaining": remaining, "reset": f"{reset:%Y-%m-%dT%H:%M:%SZ}"}

    def _refusal(self, kind: Kind, model: str, wait_s: float) -> ApiError:
        what = kind.replace("-", " ")
        limit = self._buckets[kind].per_minute
        return ApiError(
            429,
            "rate_limit_error",
            f"This request would exceed the rate limit of {limit:,} {what} per minute ({model})",
            retry_after=str(math.ceil(wait_s)),
            headers=self.headers(),
        )


class LimitBoard:
    """The limits in force, and what each model has left of them."""

    def __init__(
        self, defaults: Limits | None = None, *, clock: Callable[[], float] = monotonic_s
    ) -> None:
        """Start with the defaults, and go back to them with clear()."""
        self._defaults = {defaults.model: defaults} if defaults and defaults.per_minute else {}
        self._clock = clock
        self._models: dict[str, ModelLimits] = {}
        self._limits = dict(self._defaults)

    @property
    def limits(self) -> list[Limits]:
        """The limits in force."""
        return list(self._limits.values())

    def put(self, limits: Limits) -> None:
        """Set a model's limits, in place of those that it has; its buckets are full again."""
        self._limits[limits.model] = limits
        for model in list(self._models):
            if limits.model == model or (limits.model == ANY_MODEL and model not in self._limits):
                del self._models[model]

    def clear(self) -> None:
        """Take all limits back but the defaults."""
        self._limits = dict(self._defaults)
        self._models.clear()

    def of(self, model: str) -> ModelLimits:
        """What a model has left; of a model without limits there is always enough."""
        if model not in self._models:
            limits = self._limits.get(model) or self._limits.get(ANY_MODEL)
            if limits is None:
                return UNLIMITED
            self._models[model] = ModelLimits(limits, clock=self._clock)
        return self._models[model]

    def state(self) -> dict[str, Any]:
        """The limits in force, and what is left for each model that was asked since they are."""
        return {
            "limits": [limits.model_dump() for limits in self.limits],
            "models": {model: limits.state() for model, limits in self._models.items()},
        }


UNLIMITED = ModelLimits(Limits())


def default_limits(settings: SimulatorSettings) -> Limits:
    """The limits that the settings say."""
    return Limits(
        requests_per_min=settings.requests_per_min,
        input_tokens_per_min=settings.input_tokens_per_min,
        output_tokens_per_min=settings.output_tokens_per_min,
        burst_s=settings.limit_burst_s,
    )
