"""Which transport kombu uses, without a connection. What it bears is tested on real servers."""

import logging

import pytest
from pydantic import SecretStr

from config.celery import CelerySettings
from config.redis import RedisSettings
from services.core.queue.app import create_celery_app
from services.core.queue.transport import SentinelTransport, Transport, log_dropped


@pytest.mark.parametrize(
    ("redis", "expected"),
    [
        ({}, Transport),
        ({"tls": True}, Transport),
        ({"sentinels": ("a:26379", "b:26379")}, SentinelTransport),
    ],
)
def test_every_process_uses_our_transport(redis: dict, expected: type) -> None:
    """Plain, with TLS and through Sentinels, for reading and for writing."""
    app = create_celery_app(RedisSettings(password=SecretStr("x"), **redis), CelerySettings())

    assert expected is app.connection_for_read().get_transport_cls()
    assert expected is app.connection_for_write().get_transport_cls()


def test_the_next_sentinel_is_asked_by_our_transport_too() -> None:
    """kombu looks the transport up again by the URL's scheme."""
    settings = RedisSettings(sentinels=("a:26379", "b:26379"))
    connection = create_celery_app(settings, CelerySettings()).connection_for_read()

    connection.switch(connection.alt[1])

    assert SentinelTransport is connection.get_transport_cls()


def test_a_refusing_redis_and_a_silent_cut_make_a_worker_reconnect() -> None:
    """Celery would end the worker for the first, and notice the second after half a minute."""
    conf = create_celery_app(RedisSettings(), CelerySettings()).conf

    assert conf.broker_channel_error_retry
    assert conf.broker_transport_options["health_check_interval"] < 5


def test_drops_are_counted_for_each_source(caplog: pytest.LogCaptureFixture) -> None:
    """The line tells whence, how many, why, how long, and how it begins; no more of it."""
    caplog.set_level(logging.WARNING)

    log_dropped("queue test", "x" * 5000, "not JSON")
    log_dropped("queue test", b"sk-ant-api03-abcdefgh", "not JSON")

    first, second = [record.getMessage() for record in caplog.records]
    excerpt = "x" * 100
    assert f"dropped garbage from queue test, number 1: not JSON (5000 bytes: '{excerpt}')" == first
    assert "number 2" in second
    assert "api03" not in second
