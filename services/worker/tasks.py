"""The Celery tasks of a worker: thin, all work is elsewhere."""

from typing import Any
from uuid import UUID

from celery import Celery, Task

from services.core.queue.contracts import HealthReport, TaskName
from services.worker.health import report_health
from services.worker.pool import async_task
from services.worker.process import WorkerProcess
from services.worker.sweepers import sweep_runs

QUIET: dict[str, Any] = {"ignore_result": True, "send_events": False, "autoretry_for": ()}
"""Tasks that nobody waits for or looks at; what they leave undone is taken up by the next sweep."""


def register_tasks(app: Celery, process: WorkerProcess) -> None:
    """Declare the tasks. Each bears keyword arguments of a newer version (`_newer`)."""

    @app.task(name=TaskName.EXECUTE_RUN, **QUIET)
    def execute_run(run_id: str | None = None, **_newer: object) -> None:  # noqa: ARG001 - for logs
        process.wake()

    @app.task(name=TaskName.EXECUTE_ISOLATED_RUN, **QUIET)
    @async_task
    async def execute_isolated_run(run_id: str, **_newer: object) -> None:
        await process.execute_isolated(UUID(run_id))

    @app.task(name=TaskName.SWEEP_RUNS, **QUIET)
    @async_task
    async def sweep(**_newer: object) -> None:
        await sweep_runs(await process.runtime())

    @app.task(name=TaskName.SUBMIT_CALLS, **QUIET)
    @async_task
    async def submit_calls(**_newer: object) -> None:
        await (await process.runtime()).courier.submit()

    @app.task(name=TaskName.POLL_MESSAGE_BATCHES, **QUIET)
    @async_task
    async def poll_message_batches(**_newer: object) -> None:
        await (await process.runtime()).courier.poll()

    @app.task(name=TaskName.PROBE_WORKER, **QUIET)
    def probe(**_newer: object) -> None:
        process.confirm_alive()

    @app.task(name=TaskName.HEALTH_CHECK, bind=True)
    def health_check(self: Task[..., HealthReport], /, **_newer: object) -> HealthReport:
        return report_health(app, worker=self.request.hostname or "")
