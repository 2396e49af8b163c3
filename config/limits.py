"""How hard Claude may be worked, whatever it would allow."""

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from config.sources import Settings


class LimitSettings(Settings):
    """Bounds on the limits that all workers learn from Claude's answers and share, per model."""

    model_config = SettingsConfigDict(env_prefix="ANTHROPIC_")

    max_requests_per_min: int | None = Field(default=None, ge=1)
    """Requests a minute at most; without it, what Claude allows."""
    max_input_tokens_per_min: int | None = Field(default=None, ge=1)
    """Input tokens a minute at most, without those read from the cache; without it, what Claude allows."""
    max_output_tokens_per_min: int | None = Field(default=None, ge=1)
    """Output tokens a minute at most; without it, what Claude allows."""
    breaker_faults: int = Field(default=10, ge=1)
    """Overloads and absences in a row after which a model is not asked for a while."""
    breaker_pause_s: float = Field(default=30, gt=0)
    """Seconds until one call may try whether the model works again."""
