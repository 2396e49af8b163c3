"""PostgreSQL engine: one per process, with bounds on every wait. INTERFACE (to be implemented)."""

from sqlalchemy.ext.asyncio import AsyncEngine

from config.postgres import PostgresSettings


def create_engine(settings: PostgresSettings) -> AsyncEngine:
    """An engine that connects when first used."""
    raise NotImplementedError
