"""How gunicorn runs the API; the values come from config/api.py."""  # noqa: N999 - gunicorn looks for this name

import shutil
import tempfile
from pathlib import Path

from config.anthropic import AnthropicSettings
from config.api import ApiSettings
from config.celery import CelerySettings
from config.loading import load
from config.logfire import LogfireSettings
from config.postgres import PostgresSettings
from config.redis import RedisSettings
from services.core import logs

_settings = load(ApiSettings)
# Read here too, by the one process that ends for good: gunicorn starts a worker that ends again and again.
for _model in (CelerySettings, RedisSettings, PostgresSettings, AnthropicSettings):
    load(_model)
# In memory where there is such a folder: on a disk, heartbeats can block the worker that they vouch for, and the root
# is read-only. None means the folder for temporary files.
_memory_dir = "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108 - only as a parent of private folders
_metrics_dir = tempfile.mkdtemp(prefix="penstock-metrics-", dir=_memory_dir)

bind = f"{_settings.bind_host}:{_settings.port}"
workers = _settings.workers
worker_class = "services.api.server.ApiWorker"
keepalive = _settings.keepalive_s
graceful_timeout = _settings.shutdown_grace_s
# A worker whose loop has not turned for so many seconds is replaced.
timeout = 30
worker_tmp_dir = _memory_dir
# Its place is below $HOME, which a read-only root does not have; nothing here uses it.
control_socket_disable = True
# The app logs requests itself, by route and with their ids.
accesslog = None
logconfig_dict = logs.logging_config(load(LogfireSettings))
# prometheus-client reads this variable when the worker processes first import it.
raw_env = [f"PROMETHEUS_MULTIPROC_DIR={_metrics_dir}"]


def on_exit(_server: object) -> None:
    """Remove the figures: counts begin anew with each start."""
    shutil.rmtree(_metrics_dir, ignore_errors=True)
