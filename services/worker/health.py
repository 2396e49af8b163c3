"""What a worker tells of itself."""

import platform
from importlib.metadata import version

from celery import Celery

from services import __version__
from services.core.queue.contracts import HealthReport
from services.core.queue.redis_commands import ping_s

PACKAGES = ("celery", "kombu", "redis")


def report_health(app: Celery, *, worker: str) -> HealthReport:
    """The worker's name, the versions it runs and how quickly Redis answers it."""
    versions = {name: version(name) for name in PACKAGES}
    return {
        "worker": worker,
        "versions": {**versions, "penstock": __version__, "python": platform.python_version()},
        "redis_latency_ms": round(1000 * _redis_latency_s(app), 3),
    }


def _redis_latency_s(app: Celery) -> float:
    """The round trip of one PING on an open connection."""
    with app.producer_pool.acquire(block=True) as producer:
        return ping_s(producer)
