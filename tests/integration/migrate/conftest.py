"""A database that was never migrated."""

from collections.abc import Iterator

import pytest

from config.postgres import PostgresSettings
from tests.integration.conftest import database_of


@pytest.fixture
def empty_database(postgres_settings: PostgresSettings) -> Iterator[PostgresSettings]:
    """A database without a table."""
    with database_of(postgres_settings, template="template1") as database:
        yield database
