"""Redis settings become URLs that redis-py, kombu and Celery understand."""

import pytest
import redis
from celery import Celery
from hypothesis import given
from hypothesis import strategies as st
from kombu import Connection
from pydantic import SecretStr, ValidationError

from config.redis import RedisSettings

TEXTS = st.text(min_size=1)


@given(password=TEXTS, username=st.none() | TEXTS)
def test_any_login_survives_in_the_url(password: str, username: str | None) -> None:
    """No character of a password or user name changes what redis-py and kombu read."""
    settings = RedisSettings(password=SecretStr(password), username=username)

    for_redis = redis.connection.parse_url(settings.broker_url)
    for_kombu = Connection(settings.broker_url)

    assert (username, password) == (for_redis.get("username"), for_redis["password"])
    assert (username, password) == (for_kombu.userid, for_kombu.password)
    assert (for_redis["host"], for_redis["port"], for_redis["db"]) == ("127.0.0.1", 6379, 0)
    assert (for_kombu.hostname, for_kombu.port, for_kombu.virtual_host) == ("127.0.0.1", 6379, "0")


@given(password=TEXTS)
def test_any_password_survives_in_sentinel_urls(password: str) -> None:
    """Not even a semicolon, which separates the Sentinels, breaks the URL."""
    settings = RedisSettings(password=SecretStr(password), sentinels=("a:26379", "b:26380"))

    hosts = _result_backend(settings).connparams["hosts"]

    assert [(host["host"], host["port"]) for host in hosts] == [("a", 26379), ("b", 26380)]
    assert {password} == {host["password"] for host in hosts}
    assert settings.sentinel_nodes == [("a", 26379), ("b", 26380)]


@given(db=st.integers(min_value=0, max_value=1000))
def test_results_are_one_database_above_the_broker(db: int) -> None:
    """Results and hints never share a database."""
    settings = RedisSettings(db=db)

    assert redis.connection.parse_url(settings.broker_url)["db"] == db
    assert redis.connection.parse_url(settings.result_url)["db"] == db + 1


def test_tls_checks_the_certificate_everywhere() -> None:
    """All three clients use TLS, demand a certificate and know the CA."""
    settings = RedisSettings(tls=True, tls_ca_file="/etc/ssl/our ca+1.pem")

    for_redis = redis.connection.parse_url(settings.result_url)
    for_kombu = Connection(settings.broker_url)
    for_celery = _result_backend(settings).connparams

    assert issubclass(for_redis["connection_class"], redis.SSLConnection)
    assert (for_redis["ssl_cert_reqs"], for_redis["ssl_ca_certs"]) == (
        "required",
        "/etc/ssl/our ca+1.pem",
    )
    assert for_kombu.transport_cls == "rediss"
    assert for_kombu.ssl["ssl_cert_reqs"].name == "CERT_REQUIRED"
    assert for_kombu.ssl["ssl_ca_certs"] == "/etc/ssl/our ca+1.pem"
    assert for_celery["ssl_cert_reqs"].name == "CERT_REQUIRED"
    assert for_celery["ssl_ca_certs"] == "/etc/ssl/our ca+1.pem"


def test_an_ipv6_address_is_a_host() -> None:
    """Colons in the address are not taken for the port's."""
    settings = RedisSettings(host="::1", port=7000)

    assert redis.connection.parse_url(settings.broker_url)["host"] == "::1"
    assert Connection(settings.broker_url).port == 7000


def test_sentinels_may_be_written_with_commas_or_as_json(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways of writing a list in .env give the same settings."""
    monkeypatch.setenv("REDIS_SENTINELS", "a:26379, b:26379")
    with_commas = RedisSettings()
    monkeypatch.setenv("REDIS_SENTINELS", '["a:26379", "b:26379"]')

    assert with_commas.sentinels == RedisSettings().sentinels == ("a:26379", "b:26379")


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"sentinels": ("a",)}, "which is not host:port"),
        ({"sentinels": ("a:1",), "tls": True}, "REDIS_TLS and REDIS_SENTINELS"),
        ({"sentinels": "[a"}, "is not a JSON list"),
        ({"port": 0}, "greater than or equal to 1"),
    ],
)
def test_wrong_values_are_refused(wrong: dict[str, object], words: str) -> None:
    """What cannot work is refused at the start, with words that say why."""
    with pytest.raises(ValidationError, match=words):
        RedisSettings(**wrong)  # type: ignore[arg-type]  # wrong on purpose


def _result_backend(settings: RedisSettings) -> object:
    app = Celery(
        "test", broker=settings.broker_url, backend=settings.result_url, set_as_current=False
    )
    return app.backend
