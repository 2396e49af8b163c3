"""The servers that integration tests run against are real, and closed to strangers."""

import asyncpg
import pytest
import redis

from config.postgres import PostgresSettings
from config.redis import RedisSettings


async def test_postgres_answers_with_the_password_only(postgres_settings: PostgresSettings) -> None:
    """An empty password is refused, the right one answers."""
    where = {
        "host": postgres_settings.host,
        "port": postgres_settings.port,
        "user": postgres_settings.user,
    }
    assert postgres_settings.password is not None
    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(**where, password="", database=postgres_settings.db)

    connection = await asyncpg.connect(
        **where,
        password=postgres_settings.password.get_secret_value(),
        database=postgres_settings.db,
    )
    try:
        answer = await connection.fetchval(
            "SELECT current_setting('server_version_num')::int >= 170000"
        )
    finally:
        await connection.close()

    assert answer is True


def test_redis_answers_with_the_password_only(clean_redis: RedisSettings) -> None:
    """Without the password no command is answered; with it Redis is there and empty."""
    with (
        redis.Redis(host=clean_redis.host, port=clean_redis.port) as stranger,
        pytest.raises(redis.AuthenticationError),
    ):
        stranger.ping()

    with redis.Redis.from_url(clean_redis.broker_url) as client:
        assert client.dbsize() == 0
