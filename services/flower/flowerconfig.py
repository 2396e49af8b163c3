"""Flower's own configuration file, which it executes; arguments on the command line win."""

from config.flower import FlowerSettings
from config.loading import load
from services.core import telemetry

telemetry.initialize(service_name="flower")
_settings = load(FlowerSettings)

# Ours, set up above: not Tornado's.
logging = "none"

address = _settings.bind_host
port = _settings.port
# Without a password nobody but this machine's users may look; outside development the settings refuse that.
if _settings.password is not None:
    basic_auth = [f"{_settings.user}:{_settings.password.get_secret_value()}"]
else:
    address = "127.0.0.1"
# Operators look; what changes runs is the API's business. `--read-only=false` allows Flower's actions.
read_only = True
# Behind a proxy its headers say who asks.
xheaders = True
# The record is in PostgreSQL: Flower may forget.
persistent = False
max_tasks = 10_000
max_workers = 100
purge_offline_workers = 300
"""Seconds after which a worker that has gone is no longer shown."""
