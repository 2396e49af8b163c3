"""SQLAlchemy's engine: what Alembic migrates with. Everything else asks PostgreSQL by services.core.db."""

from sqlalchemy import URL
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from config.postgres import PostgresSettings
from services.core.pool import server_settings


def create_engine(settings: PostgresSettings) -> AsyncEngine:
    """An engine that connects when first used."""
    return create_async_engine(
        URL.create(
            "postgresql+asyncpg",
            username=settings.user,
            password=settings.password.get_secret_value() if settings.password else None,
            host=settings.host,
            port=settings.port,
            database=settings.db,
        ),
        hide_parameters=True,  # they may be secrets, which must not end up in logs
        connect_args={
            "timeout": settings.connect_timeout_s,
            "command_timeout": settings.statement_timeout_s,
            "server_settings": server_settings(settings),
        },
    )
