"""A small API and a small worker with our telemetry, for real processes."""

import contextvars
import os
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from celery import Celery
from fastapi import FastAPI
from pydantic import BaseModel

from services.core import telemetry

KEY = "sk-ant-api03-do-not-show"
PROMPT = "Dear Dr. Marsh"


class Posted(BaseModel):
    """A request body that must not show up in spans."""

    text: str


def create_celery(broker: str) -> Celery:
    """An app without tasks, as in the API."""
    app = Celery("sample", broker=broker, backend=None, set_as_current=False)
    app.conf.update(
        worker_max_tasks_per_child=2,
        broker_connection_retry_on_startup=True,
        task_default_queue=os.environ.get("SAMPLE_QUEUE", "celery"),  # noqa: TID251 - from the test
    )
    return app


def create_worker() -> Celery:
    """The worker's app, with its tasks."""
    telemetry.initialize(service_name="worker")
    telemetry.instrument_celery()
    app = create_celery(os.environ["SAMPLE_BROKER"])  # noqa: TID251 - from the test

    @app.task(name="sample.work", ignore_result=True)
    def work(traceparent: str | None = None, *, is_failing: bool = False) -> None:
        with telemetry.span("run", traceparent=traceparent, run_id="r1"):
            with telemetry.span("step", step="research"), telemetry.span("claude"):
                telemetry.record_content(prompt=PROMPT)
            if is_failing:
                raise ValueError(f"refused {KEY}")

    return app


@asynccontextmanager
async def _flush_at_the_end(_: FastAPI) -> AsyncIterator[None]:
    yield
    telemetry.shutdown()  # uvicorn ends by the signal itself, without Python's exit handlers


def create_api() -> FastAPI:
    """An API that hints from another thread, in the request's context, as core.queue does."""
    telemetry.initialize(service_name="api")
    telemetry.instrument_celery()
    celery = create_celery(os.environ["SAMPLE_BROKER"])  # noqa: TID251 - from the test
    app = FastAPI(lifespan=_flush_at_the_end)
    telemetry.instrument_fastapi(app)

    @app.post("/v1/runs/{name}")
    async def post_run(name: str, posted: Posted) -> dict[str, str | None]:
        traceparent = telemetry.current_traceparent()
        kwargs = {"traceparent": traceparent, "is_failing": name == "failing"}
        context = contextvars.copy_context()
        thread = threading.Thread(
            target=context.run, args=(celery.send_task, "sample.work"), kwargs={"kwargs": kwargs}
        )
        thread.start()
        thread.join()
        return {"traceparent": traceparent, "text": posted.text}

    @app.get("/livez")
    async def live() -> str:
        celery.send_task("sample.work")  # housekeeping: no request's trace
        return "ok"

    return app
