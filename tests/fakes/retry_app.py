"""A Celery app of ours with a task that always fails: `celery -A tests.fakes.retry_app worker`."""

import time

import redis

from config.celery import CelerySettings
from config.redis import RedisSettings
from services.core.queue.app import create_celery_app

redis_settings = RedisSettings()
notes = redis.Redis.from_url(redis_settings.result_url)
app = create_celery_app(redis_settings, CelerySettings())


@app.task(name="retry_app.fail", bind=True, max_retries=3)
def fail(self) -> None:
    """Note when it ran, and fail."""
    notes.rpush(f"tries:{self.request.id}", time.time())  # noqa: TID251 - compared across processes
    raise ConnectionError("always")
