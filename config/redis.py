"""Where Redis is. It carries hints and task results, never the record."""

from typing import Self
from urllib.parse import quote, urlencode

from pydantic import Field, field_validator, model_validator
from pydantic_settings import SettingsConfigDict

from config.secrets import GeneratedSecret
from config.sources import Settings, TextList


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
    password: GeneratedSecret = None
    """Password; read from the secret file `redis_password` in containers."""
    tls: bool = False
    """Connect with TLS (rediss://) and check the server's certificate."""
    tls_ca_file: str | None = None
    """CA bundle for TLS; empty means the system's."""
    sentinels: TextList = ()
    """List of host:port of Sentinels, which then say where Redis is; empty means a plain server."""
    sentinel_master: str = "mymaster"
    """Name of the Sentinel master set."""
    socket_timeout_s: float = Field(default=1.0, gt=0)
    """Seconds that a command may take; a frozen Redis must never hold a producer longer."""
    connect_timeout_s: float = Field(default=1.0, gt=0)
    """Seconds that a connection may take."""

    @field_validator("sentinels")
    @classmethod
    def _refuse_nodes_without_port(cls, nodes: tuple[str, ...]) -> tuple[str, ...]:
        for node in nodes:
            if not node.rpartition(":")[2].isdigit():
                message = (
                    f"has {node!r}, which is not host:port; write for example sentinel-1:26379"
                )
                raise ValueError(message)
        return nodes

    @model_validator(mode="after")
    def _refuse_tls_with_sentinels(self) -> Self:
        """Kombu and Celery each want TLS for Sentinels in another form; nobody has tried them here."""
        if self.tls and self.sentinels:
            message = "REDIS_TLS and REDIS_SENTINELS do not go together; remove one of them"
            raise ValueError(message)
        return self

    @property
    def broker_url(self) -> str:
        """The broker's URL."""
        return self.url(self.db)

    @property
    def result_url(self) -> str:
        """The result backend's URL, one database above the broker."""
        return self.url(self.db + 1)

    @property
    def sentinel_nodes(self) -> list[tuple[str, int]]:
        """Addresses for redis.sentinel.Sentinel."""
        parts = (node.rpartition(":") for node in self.sentinels)
        return [(host.strip("[]"), int(port)) for host, _, port in parts]

    def url(self, db: int) -> str:
        """The URL of one database, for kombu and Celery, and for redis-py unless there are Sentinels.

        With Sentinels, kombu and Celery also need {"master_name": sentinel_master} as transport options.
        """
        if self.sentinels:
            return ";".join(f"sentinel://{self._login}{node}/{db}" for node in self.sentinels)
        host = f"[{self.host}]" if ":" in self.host else self.host
        address = f"{self._login}{host}:{self.port}/{db}"
        return f"rediss://{address}?{self._tls_query}" if self.tls else f"redis://{address}"

    @property
    def _login(self) -> str:
        secret = self.password.get_secret_value() if self.password else ""
        user = quote(self.username or "", safe="")
        return f"{user}:{quote(secret, safe='')}@" if user or secret else ""

    @property
    def _tls_query(self) -> str:
        # Celery's result backend refuses a rediss:// URL that does not say how certificates are checked.
        query = {"ssl_cert_reqs": "required"}
        if self.tls_ca_file:
            query["ssl_ca_certs"] = self.tls_ca_file
        return urlencode(query)
