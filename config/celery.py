"""How Celery and the execution of runs behave."""

from typing import Self

from pydantic import Field, model_validator
from pydantic_settings import SettingsConfigDict

from config.sources import Settings


class CelerySettings(Settings):
    """Values for workers and beat; the app itself is built in services.core.queue."""

    model_config = SettingsConfigDict(env_prefix="CELERY_")

    concurrency: int = Field(default=200, ge=1)
    """Runs that one asyncio worker executes at once."""
    isolated_concurrency: int = Field(default=4, ge=1)
    """Processes of the isolated (prefork) worker."""
    max_tasks_per_child: int = Field(default=100, ge=1)
    """Tasks after which a prefork child is replaced."""
    task_soft_time_limit_s: float = Field(default=600, gt=0)
    """Seconds after which a task gets SoftTimeLimitExceeded."""
    task_time_limit_s: float = Field(default=660, gt=0)
    """Seconds after which a task is ended."""
    result_expires_s: int = Field(default=3600, ge=60)
    """Seconds that a task result is kept in Redis."""
    lease_ttl_s: float = Field(default=30, gt=0)
    """Seconds until a silent worker loses its runs; heartbeats come each third of it."""
    max_crashes: int = Field(default=3, ge=1)
    """Crashes of its process after which a run fails with reason `crashed`."""
    max_attempts: int = Field(default=5, ge=1)
    """Tries of one step before the run fails with reason `retries_exhausted`."""
    step_timeout_s: float = Field(default=300, gt=0)
    """Seconds that one step may take before the run fails with reason `timed_out`."""
    run_timeout_s: float = Field(default=86400, gt=0)
    """Seconds that a run may take from its first start, waiting included, before it fails with reason `timed_out`."""
    sweep_interval_s: float = Field(default=3, gt=0)
    """Seconds between sweeps, by beat and by every API process."""
    rehint_after_s: float = Field(default=10, gt=0)
    """Seconds after which a due run without a taker is hinted again."""
    batch_submit_interval_s: float = Field(default=3, gt=0)
    """Seconds between looks for calls that are to go into a message batch."""
    batch_poll_interval_s: float = Field(default=30, gt=0)
    """Seconds between looks at the message batches that Claude has."""
    poll_interval_s: float = Field(default=2, gt=0)
    """Seconds between looks into the record for due runs that no hint told of."""
    shutdown_grace_s: float = Field(default=25, ge=0)
    """Seconds that a stopping worker gives its runs before it hands them back; below stop_grace_period."""
    retry_backoff_s: float = Field(default=1, gt=0)
    """First delay of exponential backoff, in seconds; doubles with each attempt, with jitter."""
    retry_backoff_max_s: float = Field(default=300, gt=0)
    """Longest delay of exponential backoff, in seconds."""
    heartbeat_file: str | None = None
    """File that a worker touches whenever a hint went through it; its health check reads the age."""

    @model_validator(mode="after")
    def _refuse_limits_out_of_order(self) -> Self:
        """Each limit must leave room for what happens within it."""
        ordered = (
            ("step_timeout_s", "task_soft_time_limit_s"),
            ("step_timeout_s", "run_timeout_s"),
            ("task_soft_time_limit_s", "task_time_limit_s"),
            ("sweep_interval_s", "lease_ttl_s"),
            ("retry_backoff_s", "retry_backoff_max_s"),
        )
        for lower, upper in ordered:
            if getattr(self, lower) >= getattr(self, upper):
                message = (
                    f"{self.variable_of(lower)}={getattr(self, lower):g} must be below "
                    f"{self.variable_of(upper)}={getattr(self, upper):g}; lower the first or raise the second"
                )
                raise ValueError(message)
        return self
