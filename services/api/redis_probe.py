"""Whether Redis is there and takes writes. The API only asks; hints go through core.queue."""

from typing import Any, Final

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff

from config.redis import RedisSettings

PROBE_KEY: Final = "penstock.probe"
PROBE_TTL_S: Final = 60


class RedisProbe:
    """A client of the broker's database that connects when first asked."""

    def __init__(self, settings: RedisSettings) -> None:
        options: dict[str, Any] = {
            "username": settings.username,
            "password": settings.password.get_secret_value() if settings.password else None,
            "socket_timeout": settings.socket_timeout_s,
            "socket_connect_timeout": settings.connect_timeout_s,
            "retry": Retry(
                NoBackoff(), 0
            ),  # a probe tells how it is, it does not wait until it is well
        }
        if settings.tls:
            options |= {"ssl": True, "ssl_ca_certs": settings.tls_ca_file}
        if settings.sentinels:
            nodes = [
                (host, int(port))
                for host, _, port in (n.rpartition(":") for n in settings.sentinels)
            ]
            self._client = Sentinel(nodes, **options).master_for(  # type: ignore[no-untyped-call]  # redis-py
                settings.sentinel_master, db=settings.db
            )
        else:
            self._client = Redis(host=settings.host, port=settings.port, db=settings.db, **options)

    async def write(self) -> None:
        """Return if Redis takes a write: one that is full or cannot save answers everything else.

        Raises:
            RedisError: It does not.
        """
        await self._client.set(PROBE_KEY, "", ex=PROBE_TTL_S)

    async def close(self) -> None:
        """Close the connection."""
        await self._client.aclose()
