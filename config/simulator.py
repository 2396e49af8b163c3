"""How the Claude simulator behaves where a request does not say otherwise."""

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from config.sources import Settings


class SimulatorSettings(Settings):
    """Pace and bounds of the simulator; development only."""

    model_config = SettingsConfigDict(env_prefix="SIMULATOR_")

    latency_ms: int = Field(default=300, ge=0)
    """Milliseconds until an answer begins."""
    chunks: int = Field(default=20, ge=1)
    """Pieces that a streamed answer comes in, at most."""
    chunk_delay_ms: int = Field(default=10, ge=0)
    """Milliseconds between two pieces of a streamed answer."""
    max_logged_requests: int = Field(default=10_000, ge=1)
    """Requests that the request log keeps; older ones stay in the totals only."""
    max_body_bytes: int = Field(default=10_000_000, ge=1024)
    """Largest request body, in bytes; more is answered request_too_large."""
    stamp_pieces: bool = False
    """Put the Unix time at which it leaves into each piece of a streamed answer, to measure delays."""
    requests_per_min: int | None = Field(default=None, ge=1)
    """Requests that each model takes per minute; empty: not limited."""
    input_tokens_per_min: int | None = Field(default=None, ge=1)
    """Input tokens that each model takes per minute, without cache reads; empty: not limited."""
    output_tokens_per_min: int | None = Field(default=None, ge=1)
    """Output tokens that each model gives per minute; empty: not limited."""
    limit_burst_s: float = Field(default=60, gt=0)
    """Seconds of these limits that can be used at once after a pause."""
    batch_seconds: float = Field(default=5, ge=0)
    """Seconds that a message batch takes; Anthropic's take minutes to a day."""
    max_batch_bytes: int = Field(default=100_000_000, ge=1024)
    """Largest body of a message batch, in bytes. Anthropic takes 256 MB, which would not fit our memory."""
