"""gunicorn as in services/api: its log lines go through our configuration."""

from config.logfire import LogfireSettings
from services.core.logs import logging_config

workers = 1
worker_class = "uvicorn_worker.UvicornWorker"
control_socket_disable = True
logconfig_dict = logging_config(LogfireSettings())
