"""What the health checks say: the shapes that tests hold stable."""

from enum import StrEnum

from pydantic import Field

from services.api.schemas import Shape
from services.core.runs.call_limits import BreakerState


class PartStatus(StrEnum):
    """Whether a part answers, and takes writes."""

    UP = "up"
    FULL = "full"
    """It answers and takes no more writes: its memory or its disk is full."""
    DOWN = "down"


class ClaudeStatus(StrEnum):
    """Where calls to Claude go."""

    CONFIGURED = "configured"
    SIMULATED = "simulated"
    MISSING = "missing"


class HealthStatus(StrEnum):
    """The whole in one word."""

    OK = "ok"
    DEGRADED = "degraded"


class PartHealth(Shape):
    """One part, asked just now."""

    status: PartStatus
    latency_ms: float | None = None
    """How long the answer took; empty if there was none."""
    error: str | None = None
    """What is wrong; empty if nothing is."""


class ClaudeHealth(Shape):
    """Where calls to Claude go; nothing is sent there to find out."""

    status: ClaudeStatus


class QueueHealth(Shape):
    """Runs that wait."""

    depth: int
    """Queued runs, those that wait for their next try included."""
    due_runs: int
    """Those of them that could be executed now."""
    unclaimable_runs: int
    """Those of them that no living process can execute, as none knows their pipeline with the steps they have."""
    oldest_due_age_s: float
    """Seconds that the oldest of these has been due; 0 if there is none."""


class HeartbeatHealth(Shape):
    """The last sign of life of a process."""

    process: str = Field(examples=["worker@3f2a"])
    kind: str = Field(examples=["worker"])
    age_s: float
    """Seconds since then."""


class ClaudeLimitsHealth(Shape):
    """The limits of a model, as all workers share them."""

    model: str
    requests_per_min: float | None
    """As Claude's answers said, or as set if that is less; empty while neither is known."""
    input_tokens_per_min: float | None
    output_tokens_per_min: float | None
    rate_factor: float
    """Share of the limits that is used: below 1 after a 429 or an overload, until enough calls were answered."""
    paused_for_s: float
    """Seconds for which nobody calls; 0 if all may."""
    breaker: BreakerState
    """Whether the model is asked at all."""
    calls_in_flight: int


class Health(Shape):
    """Every part, with ages."""

    status: HealthStatus
    """ok if the record and Redis answer and take writes, Claude is there, each kind of process was alive just now, and
    somebody can execute every run."""
    version: str
    environment: str
    postgres: PartHealth
    redis: PartHealth
    claude: ClaudeHealth
    claude_limits: list[ClaudeLimitsHealth]
    """Of each model that was called; none while the record is away."""
    queue: QueueHealth | None
    """Empty while the record is away."""
    heartbeats: list[HeartbeatHealth]


class Liveness(Shape):
    """This process runs."""

    status: HealthStatus = HealthStatus.OK


class Readiness(Shape):
    """This process can serve."""

    status: HealthStatus = HealthStatus.OK
