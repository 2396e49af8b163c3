"""Flower, the view of workers and runs."""

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from config.secrets import GeneratedSecret
from config.sources import Settings


class FlowerSettings(Settings):
    """How Flower listens and who may look."""

    model_config = SettingsConfigDict(env_prefix="FLOWER_")

    bind_host: str = "127.0.0.1"
    """Address to listen on inside the container or on the host."""
    port: int = Field(default=5555, ge=1, le=65535)
    """TCP port."""
    user: str = "penstock"
    """User name of its basic authentication."""
    password: GeneratedSecret = None
    """Password of its basic authentication; read from the secret file `flower_password` in containers."""
