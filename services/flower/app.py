"""Flower: `celery -A services.flower.app flower --conf=services/flower/flowerconfig.py`."""

from config.celery import CelerySettings
from config.loading import load
from config.redis import RedisSettings
from services.core.queue.app import create_celery_app

app = create_celery_app(load(RedisSettings), load(CelerySettings))
