"""What the tasks of one process work with, opened on that process's event loop."""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from celery import Celery

from config.celery import CelerySettings
from services.core.queue.publisher import HintPublisher
from services.core.runs.store import RunStore
from services.pipelines.definition import Pipeline
from services.worker.admission import Admits, FreeAdmission
from services.worker.batch_courier import BatchCourier, Batching
from services.worker.executor import Limits, Outside, RunExecutor
from services.worker.identity import Identity
from services.worker.leases import LeaseKeeper
from services.worker.live_text import TextSender
from services.worker.reporter import RunReporter
from services.worker.retry import RetryPolicy


@dataclass(frozen=True, slots=True)
class Parts:
    """What holds connections."""

    store: RunStore
    outside: Outside
    batching: Batching
    texts: TextSender
    admits: Admits[Any] = field(default_factory=FreeAdmission)


@dataclass(frozen=True, slots=True)
class Blueprint:
    """What a runtime is built from; made once, before any process or loop starts."""

    app: Celery
    settings: CelerySettings
    pipelines: Mapping[str, Pipeline[Any]]
    open_parts: Callable[[], AbstractAsyncContextManager[Parts]]
    """Opens the parts on the running loop, and closes them."""


@dataclass(frozen=True, slots=True)
class Runtime:
    """What tasks work with."""

    settings: CelerySettings
    identity: Identity
    store: RunStore
    keeper: LeaseKeeper
    publisher: HintPublisher
    courier: BatchCourier


@asynccontextmanager
async def open_runtime(blueprint: Blueprint, *, identity: Identity) -> AsyncIterator[Runtime]:
    """A runtime on the running loop, closed with the context."""
    settings = blueprint.settings
    publisher = HintPublisher(blueprint.app)
    reporter = RunReporter(blueprint.app, worker=identity.process)
    try:
        async with blueprint.open_parts() as parts:
            keeper = LeaseKeeper(
                parts.store,
                _executor(blueprint, parts),
                reporter,
                identity=identity,
                lease_ttl_s=settings.lease_ttl_s,
            )
            courier = BatchCourier(parts.store, parts.batching, publisher)
            yield Runtime(settings, identity, parts.store, keeper, publisher, courier)
    finally:
        publisher.close()
        reporter.close()


def _executor(blueprint: Blueprint, parts: Parts) -> RunExecutor:
    settings = blueprint.settings
    return RunExecutor(
        parts.store,
        parts.outside,
        texts=parts.texts,
        admits=parts.admits,
        pipelines=blueprint.pipelines,
        retry_policy=RetryPolicy(
            max_attempts=settings.max_attempts,
            backoff_s=settings.retry_backoff_s,
            backoff_max_s=settings.retry_backoff_max_s,
        ),
        limits=Limits(step_s=settings.step_timeout_s, run_s=settings.run_timeout_s),
    )
