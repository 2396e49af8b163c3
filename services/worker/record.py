"""The record, as a worker uses it."""

import sys

from config.celery import CelerySettings
from config.postgres import PostgresSettings
from services.core.db import create_engine
from services.core.runs.store import RunStore


def open_store(postgres: PostgresSettings, celery: CelerySettings) -> RunStore:
    """A store on an engine of its own; nothing connects yet."""
    return RunStore(
        create_engine(postgres),
        lease_ttl_s=celery.lease_ttl_s,
        max_crashes=celery.max_crashes,
        rehint_after_s=celery.rehint_after_s,
        max_queued_runs=sys.maxsize,  # workers accept no runs
        run_timeout_s=celery.run_timeout_s,
    )
