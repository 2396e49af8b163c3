"""A connection to Redis that is nobody else's, and never tries again by itself."""

from typing import Any

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff

from config.redis import RedisSettings


def create_client(settings: RedisSettings) -> Redis:
    """A client of the broker's database that connects when it is first used, in bounded time."""
    password = settings.password.get_secret_value() if settings.password else None
    waits: dict[str, Any] = {
        "socket_timeout": settings.socket_timeout_s,
        "socket_connect_timeout": settings.connect_timeout_s,
        "retry": Retry(NoBackoff(), 0),
    }
    options = {"username": settings.username, "password": password, "db": settings.db, **waits}
    if settings.tls:
        options |= {"ssl": True, "ssl_ca_certs": settings.tls_ca_file}
    if settings.sentinels:
        sentinel = Sentinel(  # type: ignore[no-untyped-call]  # redis-py
            settings.sentinel_nodes, sentinel_kwargs={"password": password, **waits}
        )
        master: Redis = sentinel.master_for(settings.sentinel_master, **options)
        return master
    return Redis(host=settings.host, port=settings.port, **options)
