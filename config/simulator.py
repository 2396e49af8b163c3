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
