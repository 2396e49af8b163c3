"""Where Redis is. It carries hints and task results, never the record."""

from urllib.parse import quote

from pydantic import Field, SecretStr
from pydantic_settings import SettingsConfigDict

from config.sources import Settings


class RedisSettings(Settings):
    """Connection to Redis: the broker in database n, results in database n + 1."""

    model_config = SettingsConfigDict(env_prefix="REDIS_")

    host: str = "127.0.0.1"
    """Host name or address."""
    port: int = Field(default=6379, ge=1, le=65535)
    """TCP port."""
    db: int = Field(default=0, ge=0)
    """Database number of the broker; task results use the next one."""
    username: str | None = None
    """ACL user; empty for the default user."""
    password: SecretStr | None = None
    """Password; read from the secret file `redis_password` in containers."""
    tls: bool = False
    """Connect with TLS (rediss://)."""
    tls_ca_file: str | None = None
    """CA bundle for TLS; empty means the system's."""
    sentinels: tuple[str, ...] = ()
    """Sentinel addresses as a JSON list of "host:port"; empty means a plain server."""
    sentinel_master: str = "mymaster"
    """Name of the Sentinel master set."""
    socket_timeout_s: float = Field(default=1.0, gt=0)
    """Seconds that a command may take; a frozen Redis must never hold a producer longer."""
    connect_timeout_s: float = Field(default=1.0, gt=0)
    """Seconds that a connection may take."""

    def url(self, db: int) -> str:
        """The URL of one database, for kombu, Celery and redis-py."""
        secret = self.password.get_secret_value() if self.password else ""
        user = quote(self.username or "", safe="")
        login = f"{user}:{quote(secret, safe='')}@" if user or secret else ""
        if self.sentinels:
            return ";".join(f"sentinel://{login}{node}/{db}" for node in self.sentinels)
        scheme = "rediss" if self.tls else "redis"
        return f"{scheme}://{login}{self.host}:{self.port}/{db}"

    @property
    def broker_url(self) -> str:
        """The broker's URL."""
        return self.url(self.db)

    @property
    def result_url(self) -> str:
        """The result backend's URL, one database above the broker."""
        return self.url(self.db + 1)
