"""How Claude is reached."""

from pydantic import Field, field_validator
from pydantic_settings import SettingsConfigDict

from config.secrets import IssuedSecret
from config.sources import Settings


class AnthropicSettings(Settings):
    """Access to Claude, or to the simulator where there is no key."""

    model_config = SettingsConfigDict(env_prefix="ANTHROPIC_")

    api_key: IssuedSecret = None
    """API key (sk-ant-...); read from the secret file `anthropic_api_key` in containers."""
    base_url: str = "https://api.anthropic.com"
    """Where the Messages API is."""
    simulator_url: str | None = None
    """Where the simulator is; used, and shown in results, only while there is no API key."""
    model: str = "claude-sonnet-5-5"
    """Model of steps that name none."""
    fallback_model: str | None = None
    """Model that is asked while the other one is overloaded, by steps that allow it; without it, they wait."""
    fallback_price_model: str = "claude-fable-5-2"
    """Model whose prices count where a model has none that we know; a dear one: budgets hold."""
    timeout_s: float = Field(default=120, gt=0)
    """Seconds that one call may take, from the request to the last piece of the answer."""
    connect_timeout_s: float = Field(default=15, gt=0)
    """Seconds that a connection to Claude may take."""
    max_connections: int = Field(default=1000, ge=1)
    """Calls that one process may have open at once."""

    batch_linger_s: float = Field(default=10, ge=0)
    """Seconds that calls of runs in batch mode are gathered before a message batch is made of them."""
    batch_max_calls: int = Field(default=10_000, ge=1, le=100_000)
    """Calls in one message batch; the API takes 100,000."""
    batch_max_bytes: int = Field(default=100_000_000, ge=1, le=256_000_000)
    """Bytes of one message batch; the API takes 256 MB. A process needs about three times as much."""
    batch_timeout_s: float = Field(default=300, gt=0)
    """Seconds that making a message batch may take, upload included."""
    accounts_keep_days: int = Field(default=90, ge=2)
    """Days that message batches which have ended, and what each key spent in a day, are kept."""
    batch_doubt_s: float = Field(default=120, gt=0)
    """Seconds after which a message batch that Claude does not list was not made; it is made again then."""

    @field_validator("api_key", mode="before")
    @classmethod
    def _without_blanks(cls, value: object) -> object:
        """A pasted key may end in a line break, which no header can hold; a blank one is none."""
        return value.strip() or None if isinstance(value, str) else value

    @property
    def is_simulated(self) -> bool:
        """Calls go to the simulator: there is one, and no key."""
        return self.api_key is None and self.simulator_url is not None

    @property
    def is_configured(self) -> bool:
        """Calls can be made at all."""
        return self.api_key is not None or self.simulator_url is not None
