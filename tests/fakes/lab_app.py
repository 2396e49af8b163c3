"""A worker whose pipeline does what a run's input says: `python -m services.worker --app=tests.fakes.lab_app`.

All else is the real thing: settings from the environment, PostgreSQL, Redis, Celery's signals.
"""

import asyncio
import ctypes
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import redis
from pydantic import BaseModel

from config.anthropic import AnthropicSettings
from config.celery import CelerySettings
from config.postgres import PostgresSettings
from config.redis import RedisSettings
from services.core.claude.protocol import ClaudeRequest
from services.core.errors import StepTransientError
from services.core.live_text.client import create_client
from services.core.queue.app import create_celery_app
from services.pipelines.definition import Pipeline, Step, StepContext
from services.worker.batch_courier import Batching
from services.worker.executor import Outside
from services.worker.live_text import TextSender
from services.worker.probe import Prober
from services.worker.record import open_store
from services.worker.runtime import Blueprint, Parts
from services.worker.wiring import wire_worker
from tests.fakes.tiny_pipeline import ScriptedClaude, Text

RECORD = "lab:record"
"""A Redis list of "step run_id" in the order in which steps began."""

redis_settings = RedisSettings()
celery_settings = CelerySettings()
notes = redis.Redis.from_url(redis_settings.result_url)

POISONS: dict[str, Callable[[], object]] = {
    "exit 0": lambda: os._exit(0),
    "exit 1": lambda: os._exit(1),
    "sigkill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "segfault": lambda: ctypes.string_at(0),
    "system exit": lambda: sys.exit(1),
}
"""What ends a process, or tries to."""


class LabInput(BaseModel):
    """What a run shall do in its second step."""

    behaviour: str = "return"
    seconds: float = 0


async def first(given: LabInput, context: StepContext) -> LabInput:
    """Be a step whose repetition would show."""
    _note(given, context)
    if given.behaviour == "wait twice":
        await asyncio.sleep(given.seconds)
    return given


async def second(given: LabInput, context: StepContext) -> Text:
    """Do what the input says."""
    _note(given, context)
    match given.behaviour:
        case "wait" | "wait twice":
            await asyncio.sleep(given.seconds)
        case "block":
            time.sleep(given.seconds)  # noqa: ASYNC251 - on purpose: it starves the loop
        case "resist":
            await _resist()
        case poison if poison in POISONS:
            POISONS[poison]()
        case "flaky" if context.attempt == 1:
            raise StepTransientError("not yet")
        case "break":
            raise StepTransientError("never")
        case "ask":
            await context.claude.ask(ClaudeRequest(system="", prompt="?"), Text)
    return Text(text=f"done in try {context.attempt}")


async def _resist() -> None:
    """Swallow every cancellation."""
    while True:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            continue


def _note(given: LabInput, context: StepContext) -> None:
    if given.behaviour != "silent":
        notes.rpush(RECORD, f"{context.step} {context.run_id}")


@asynccontextmanager
async def open_parts() -> AsyncIterator[Parts]:
    """The real record, and a Claude that answers at once."""
    store = open_store(PostgresSettings(), celery_settings)
    texts = TextSender(create_client(redis_settings), db=redis_settings.db)
    batching = Batching.by_settings(AnthropicSettings())
    outside = Outside(claude=ScriptedClaude(), web=None, arxiv_url="")
    yield Parts(store, outside, batching, texts)
    await batching.claude.aclose()
    await texts.close()
    await store.close()


LAB = Pipeline("lab", "Does what it is told.", (Step(first), Step(second)))
Prober.interval_s = 1.0
LAG_LIMIT_S = float(os.environ.get("LAB_LAG_LIMIT_S", "60"))  # noqa: TID251 - no setting of the worker
app = wire_worker(
    Blueprint(
        app=create_celery_app(redis_settings, celery_settings),
        settings=celery_settings,
        pipelines={LAB.name: LAB},
        open_parts=open_parts,
    )
)
app.conf["asyncio_pool"] = replace(app.conf["asyncio_pool"], lag_limit_s=LAG_LIMIT_S)
