"""The API process: what it is made of, and what begins and ends with it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache, partial

from fastapi import FastAPI
from starlette.types import ASGIApp

from config.anthropic import AnthropicSettings
from config.api import ApiSettings
from config.celery import CelerySettings
from config.environment import EnvironmentSettings
from config.loading import load
from config.postgres import PostgresSettings
from config.redis import RedisSettings
from services.api.background import in_background
from services.api.batch_hub import BatchHub
from services.api.batch_room import BatchRoom
from services.api.deadline import Pulse
from services.api.dependencies import Dependencies
from services.api.errors import install_error_handlers
from services.api.event_hub import EventHub
from services.api.full_disk import FullDisk
from services.api.http_metrics import HttpMetrics
from services.api.key_lookups import KeyLookups
from services.api.known_keys import KnownKeys
from services.api.middleware.envelope import EnvelopeMiddleware, silence_server_log
from services.api.openapi import describe_api
from services.api.quick_way import QuickWayMiddleware
from services.api.redis_probe import RedisProbe
from services.api.routes import (
    batches,
    dead_letters,
    docs,
    emails,
    events,
    health,
    metrics,
    pipelines,
    runs,
    usage,
)
from services.api.run_texts import TextBoard
from services.api.shutdown import on_stop_signal
from services.api.sweeper import Sweeper
from services.api.text_feed import TextFeed
from services.core import telemetry
from services.core.live_text.client import create_client
from services.core.pool import Pool
from services.core.queue.app import create_celery_app
from services.core.queue.publisher import HintPublisher
from services.core.runs.store import RunStore
from services.pipelines.registry import PIPELINES

STATEMENT_S = 1.6
"""Seconds that one statement may take, its wait for a connection included; then what hangs makes way for others."""
ROUTERS = (
    runs,
    usage,
    events,
    batches,
    dead_letters,
    pipelines,
    emails,
    health,
    metrics,
    docs,
)


def create_app(dependencies: Dependencies | None = None) -> FastAPI:
    """The API, ready for a server.

    Args:
        dependencies: What it works with; built from the settings if not given. Nothing is opened before it starts.
    """
    if dependencies is None:
        telemetry.initialize(service_name="api")
        telemetry.instrument_celery()
        silence_server_log()
        dependencies = build_dependencies()
    # The document and its page are in routes/docs.py. No redirect to or from a trailing slash: a path that is not
    # documented is 404.
    app = _Api(openapi_url=None, redirect_slashes=False, lifespan=_live)
    app.state.dependencies = dependencies
    app.state.event_hub = EventHub(dependencies.store, dependencies.texts.board)
    app.state.batch_hub = BatchHub(dependencies.store.batches)
    app.state.batch_room = BatchRoom()
    app.state.record_pulse = Pulse()
    app.state.key_lookups = KeyLookups(dependencies.store, app.state.record_pulse)
    app.state.known_keys = KnownKeys()
    app.state.full_disk = FullDisk()
    app.state.http_metrics = HttpMetrics(multiprocess_dir=dependencies.settings.metrics_dir)
    for routes in ROUTERS:
        app.include_router(routes.router)
    install_error_handlers(app)
    _document(app, dependencies)
    telemetry.instrument_fastapi(app)
    return app


def build_dependencies() -> Dependencies:
    """What the settings ask for; connections open when they are first used."""
    settings, celery, redis = load(ApiSettings), load(CelerySettings), load(RedisSettings)
    store = RunStore(
        Pool(load(PostgresSettings)),
        lease_ttl_s=celery.lease_ttl_s,
        max_crashes=celery.max_crashes,
        rehint_after_s=celery.rehint_after_s,
        max_queued_runs=settings.max_queued_runs,
        run_timeout_s=celery.run_timeout_s,
        timeout_s=STATEMENT_S,
    )
    probe = RedisProbe(redis)
    texts = TextFeed(create_client(redis), TextBoard(), db=redis.db)

    async def close() -> None:
        await probe.close()
        await texts.close()
        await store.close()
        await asyncio.to_thread(telemetry.shutdown)

    return Dependencies(
        settings=settings,
        environment=load(EnvironmentSettings).env,
        anthropic=load(AnthropicSettings),
        sweep_interval_s=celery.sweep_interval_s,
        store=store,
        publisher=HintPublisher(create_celery_app(redis, celery)),
        redis=probe,
        texts=texts,
        pipelines=PIPELINES,
        close=close,
    )


@asynccontextmanager
async def _live(app: FastAPI) -> AsyncIterator[None]:
    """Work that begins with the process and ends with it."""
    deps: Dependencies = app.state.dependencies
    hub: EventHub = app.state.event_hub
    batch_hub: BatchHub = app.state.batch_hub

    def close_streams() -> None:
        hub.close()
        batch_hub.close()

    sweeper = Sweeper(deps.store, deps.publisher, app.state.full_disk, deps.sweep_interval_s)
    deps.publisher.start()
    try:
        turns = (
            ("Reading events", hub.poll),
            ("Reading batches", batch_hub.poll),
            ("Sweeping", sweeper.sweep),
            ("Listening for texts", deps.texts.listen),
            ("Reading texts", deps.texts.read),
        )
        with on_stop_signal(close_streams):
            async with in_background(*turns):
                yield
    finally:
        close_streams()
        await asyncio.to_thread(deps.publisher.close)
        await deps.close()


class _Api(FastAPI):
    """FastAPI within what surrounds every request, the answers of its last resort included."""

    def build_middleware_stack(self) -> ASGIApp:
        """Ours goes around all that FastAPI has; add_middleware would put it below its handler of errors."""
        app = super().build_middleware_stack()
        deps: Dependencies = self.state.dependencies
        has_spans = telemetry.is_recording()
        if not has_spans:  # FastAPI's are named as it finds the route
            app = QuickWayMiddleware(
                app,
                route=runs.CREATE_RUN,
                deps=deps,
                known_keys=self.state.known_keys,
                pulse=self.state.record_pulse,
            )
        return EnvelopeMiddleware(
            app,
            measure=self.state.http_metrics.measure,
            max_body_bytes=deps.settings.max_body_bytes,
            exceptions={batches.PATH: deps.settings.max_batch_bytes},
            makes_trace_ids=not has_spans,
        )


def _document(app: FastAPI, dependencies: Dependencies) -> None:
    describe = partial(describe_api, app, dependencies.pipelines)
    app.openapi = cache(describe)  # type: ignore[method-assign]  # FastAPI's documented way to extend it
