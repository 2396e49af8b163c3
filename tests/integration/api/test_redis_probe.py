"""Whether Redis is there, asked of a real one."""

import socket
import time

import pytest
from pydantic import SecretStr
from redis import exceptions

from config.redis import RedisSettings
from services.api.redis_probe import RedisProbe


async def test_a_running_redis_answers(redis_settings: RedisSettings) -> None:
    """With its password, and again on the same connection."""
    probe = RedisProbe(redis_settings)
    try:
        await probe.ping()
        await probe.ping()
    finally:
        await probe.close()


async def test_a_wrong_password_is_an_error(redis_settings: RedisSettings) -> None:
    """A Redis that lets nobody in is as good as none."""
    probe = RedisProbe(redis_settings.model_copy(update={"password": SecretStr("wrong")}))
    try:
        with pytest.raises(exceptions.AuthenticationError):
            await probe.ping()
    finally:
        await probe.close()


async def test_an_absent_redis_is_told_at_once(redis_settings: RedisSettings) -> None:
    """Without the client's own retries, which would take seconds."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    probe = RedisProbe(redis_settings.model_copy(update={"host": "127.0.0.1", "port": port}))
    began_s = time.monotonic()
    try:
        with pytest.raises(exceptions.ConnectionError):
            await probe.ping()
    finally:
        await probe.close()

    assert time.monotonic() - began_s < 1


async def test_a_silent_redis_is_told_after_the_timeout(redis_settings: RedisSettings) -> None:
    """A server that takes connections and says nothing, as a frozen one."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        changes = {"host": "127.0.0.1", "port": silent.getsockname()[1], "socket_timeout_s": 0.2}
        probe = RedisProbe(redis_settings.model_copy(update=changes))
        try:
            with pytest.raises(exceptions.TimeoutError):
                await probe.ping()
        finally:
            await probe.close()
