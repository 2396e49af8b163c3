"""`celery -A tests.integration.telemetry.sample_worker worker`."""

from tests.integration.telemetry.sample import create_worker

app = create_worker()
