"""Where PostgreSQL is. It holds every fact: runs, steps, events, emails, keys."""

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from config.secrets import GeneratedSecret
from config.sources import Settings


class PostgresSettings(Settings):
    """Connection to PostgreSQL and the bounds on its use."""

    model_config = SettingsConfigDict(env_prefix="POSTGRES_")

    host: str = "127.0.0.1"
    """Host name or address."""
    port: int = Field(default=5432, ge=1, le=65535)
    """TCP port."""
    db: str = "penstock"
    """Database name."""
    user: str = "penstock"
    """Role."""
    password: GeneratedSecret = None
    """Password; read from the secret file `postgres_password` in containers."""
    pool_size: int = Field(default=8, ge=1)
    """Connections that one process has at most; those that nobody needs for a minute are closed."""
    connect_timeout_s: float = Field(default=2.0, gt=0)
    """Seconds that a connection may take."""
    statement_timeout_s: float = Field(default=5.0, gt=0)
    """Seconds that one statement may take, on both sides of the wire."""
