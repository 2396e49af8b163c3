"""The Celery app that API, workers, beat and Flower share. INTERFACE (to be implemented)."""

from celery import Celery

from config.celery import CelerySettings
from config.redis import RedisSettings


def create_celery_app(redis: RedisSettings, celery: CelerySettings, *, name: str = "penstock") -> Celery:
    """A Celery app: JSON only, late acks, bounded waits. Opens no connection."""
    raise NotImplementedError
