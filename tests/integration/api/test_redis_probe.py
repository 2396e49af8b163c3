"""Whether Redis is there and takes writes, asked of a real one."""

import socket
import time
from pathlib import Path

import pytest
from pydantic import SecretStr
from redis import exceptions

from config.redis import RedisSettings
from services.api.checks import check_redis
from services.api.health_schemas import PartStatus
from services.api.redis_probe import RedisProbe
from tests.integration.api.conftest import lose_disk
from tests.integration.fragile_redis import FragileRedis


async def test_a_running_redis_answers(redis_settings: RedisSettings) -> None:
    """With its password, and again on the same connection."""
    probe = RedisProbe(redis_settings)
    try:
        await probe.write()
        await probe.write()
    finally:
        await probe.close()


async def test_a_wrong_password_is_an_error(redis_settings: RedisSettings) -> None:
    """A Redis that lets nobody in is as good as none."""
    probe = RedisProbe(redis_settings.model_copy(update={"password": SecretStr("wrong")}))
    try:
        with pytest.raises(exceptions.AuthenticationError):
            await probe.write()
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
            await probe.write()
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
                await probe.write()
        finally:
            await probe.close()


async def test_a_redis_whose_memory_is_full_says_so() -> None:
    """It answers PING as ever; only a write tells. With room again it is well by itself."""
    server = FragileRedis()
    server.start("--maxmemory-policy", "noeviction")
    probe = RedisProbe(server.settings)
    try:
        before = await check_redis(probe)
        with server.client() as client:
            client.config_set("maxmemory", "1mb")
            full = await check_redis(probe)
            client.config_set("maxmemory", "0")
        after = await check_redis(probe)
    finally:
        await probe.close()
        server.kill()

    assert (before.status, after.status) == (PartStatus.UP, PartStatus.UP)
    assert (full.status, full.error) == (PartStatus.FULL, "its memory limit (maxmemory) is reached")


async def test_a_redis_that_cannot_write_to_its_disk_says_so(tmp_path: Path) -> None:
    """In its own words."""
    folder = tmp_path / "data"
    folder.mkdir()
    server = FragileRedis()
    server.start("--dir", str(folder), "--save", "3600 1")
    probe = RedisProbe(server.settings)
    try:
        await probe.write()
        await lose_disk(server, folder)
        refused = await check_redis(probe)
    finally:
        await probe.close()
        server.kill()

    assert refused.status is PartStatus.FULL
    assert "unable to persist to disk" in str(refused.error)
