"""The record, as a worker uses it."""

import sys

from config.celery import CelerySettings
from config.limits import LimitSettings
from config.postgres import PostgresSettings
from services.core.pool import Pool
from services.core.runs.call_limiter import CallLimiter, LimitRules
from services.core.runs.limit_state import Caps
from services.core.runs.store import RunStore


def open_store(postgres: PostgresSettings, celery: CelerySettings) -> RunStore:
    """A store with connections of its own; nothing connects yet."""
    return RunStore(
        Pool(postgres),
        lease_ttl_s=celery.lease_ttl_s,
        max_crashes=celery.max_crashes,
        rehint_after_s=celery.rehint_after_s,
        max_queued_runs=sys.maxsize,  # workers accept no runs
        run_timeout_s=celery.run_timeout_s,
    )


def open_limiter(store: RunStore, settings: LimitSettings) -> CallLimiter:
    """What keeps Claude's limits, together with all other workers."""
    caps = Caps(
        requests=settings.max_requests_per_min,
        input_tokens=settings.max_input_tokens_per_min,
        output_tokens=settings.max_output_tokens_per_min,
    )
    rules = LimitRules(
        caps=caps,
        breaker_faults=settings.breaker_faults,
        breaker_pause_s=settings.breaker_pause_s,
    )
    return store.open_limiter(rules)
