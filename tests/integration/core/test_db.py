"""The engine bounds what a statement may take, on the server's side as well."""

from sqlalchemy import text

from config.postgres import PostgresSettings
from services.core.db import create_engine


async def test_the_server_ends_what_runs_too_long(postgres_settings: PostgresSettings) -> None:
    """Even if a process dies, what it began on the server ends in time."""
    settings = postgres_settings.model_copy(update={"statement_timeout_s": 1.5})
    engine = create_engine(settings)
    names = ("statement_timeout", "idle_in_transaction_session_timeout", "application_name")

    async with engine.connect() as connection:
        found = [(await connection.execute(text(f"SHOW {name}"))).scalar() for name in names]
    await engine.dispose()

    assert found == ["1500ms", "1500ms", "penstock"]


def test_an_engine_shows_no_password(postgres_settings: PostgresSettings) -> None:
    """An engine in a log line keeps its secret."""
    assert postgres_settings.password is not None
    engine = create_engine(postgres_settings)

    assert postgres_settings.password.get_secret_value() not in f"{engine!r} {engine.url}"
