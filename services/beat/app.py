"""Beat: `celery -A services.beat.app beat`. Two of them do no harm, as sweeps can be repeated.

Its remote control answers `celery -A services.beat.app inspect ping -d celerybeat@HOST`.
"""

from celery import signals

from config.celery import CelerySettings
from config.loading import load
from config.redis import RedisSettings
from services.beat.schedule import create_schedule
from services.core import telemetry
from services.core.queue.app import create_celery_app

celery_settings = load(CelerySettings)

app = create_celery_app(load(RedisSettings), celery_settings)
app.conf.beat_schedule = create_schedule(celery_settings)
# In memory: intervals of seconds need no file, and a file cannot be shared or be on a read-only root.
app.conf.beat_scheduler = "services.beat.scheduler:SteadyScheduler"


@signals.setup_logging.connect
def set_up_telemetry(**_: object) -> None:
    """Log and trace as the other processes do; Celery leaves logging alone where this signal is heard."""
    telemetry.initialize(service_name="beat")
    telemetry.instrument_celery()
