"""Redis that tests may hurt, and an app on it."""

from collections.abc import Iterator

import pytest
from celery import Celery

from config.celery import CelerySettings
from services.core.queue.app import create_celery_app
from tests.integration.fragile_redis import FragileRedis, fragile_redis


@pytest.fixture
def fragile() -> Iterator[FragileRedis]:
    """A running Redis."""
    with fragile_redis() as server:
        yield server


@pytest.fixture
def app(fragile: FragileRedis) -> Iterator[Celery]:
    """A producer's app."""
    app = create_celery_app(fragile.settings, CelerySettings())
    yield app
    app.close()
