"""Puts a worker together and ties it to Celery's signals."""

from collections.abc import Mapping

from billiard.exceptions import WorkerLostError
from celery import Celery, Task, signals

from services.core import telemetry
from services.core.queue.contracts import TaskName
from services.worker import boot
from services.worker.consumer import SturdyConsumer
from services.worker.pool import PoolLimits, on_drain, on_loop_close, pool_loop, spawn
from services.worker.probe import Prober
from services.worker.process import WorkerProcess
from services.worker.runtime import Blueprint
from services.worker.tasks import register_tasks

SERVICE_NAME = "worker"


def _runs_asyncio_pool() -> bool:
    """Whether this process is the one of an asyncio pool, rather than a prefork child."""
    try:
        pool_loop()
    except RuntimeError:
        return False
    return True


def wire_worker(blueprint: Blueprint) -> Celery:
    """The Celery app of a worker, ready for its options; nothing is opened yet."""
    app, settings = blueprint.app, blueprint.settings
    process = WorkerProcess(blueprint)
    register_tasks(app, process)
    app.conf.worker_consumer = SturdyConsumer
    app.conf["asyncio_pool"] = PoolLimits(shutdown_grace_s=settings.shutdown_grace_s)
    if settings.heartbeat_file:
        app.steps["worker"].add(Prober)
    on_drain(process.drain)
    on_loop_close(process.close)
    _connect_parent(process)
    _connect_pool(process)
    return app


def _connect_parent(process: WorkerProcess) -> None:
    """What happens in a worker's main process."""

    def begin(sender: str, **_: object) -> None:
        telemetry.initialize(service_name=SERVICE_NAME)
        telemetry.instrument_celery()
        process.name(sender)
        process.forget_heartbeat()

    def stop(**_: object) -> None:
        process.stop_children()

    def end(**_: object) -> None:
        telemetry.shutdown()

    def share_memory(**_: object) -> None:
        boot.share_with_children()

    def bury(
        sender: "Task[..., object]",
        task_id: str,
        exception: Exception,
        kwargs: Mapping[str, str],
        **_: object,
    ) -> None:
        if sender.name == TaskName.EXECUTE_ISOLATED_RUN and isinstance(exception, WorkerLostError):
            how = str(exception).removeprefix("Worker exited prematurely: ")
            process.bury_child(task_id, kwargs.get("run_id", ""), how)

    signals.celeryd_init.connect(begin, weak=False)
    signals.worker_before_create_process.connect(share_memory, weak=False)
    signals.task_failure.connect(bury, weak=False)
    signals.worker_shutting_down.connect(stop, weak=False)
    signals.worker_shutdown.connect(end, weak=False)


def _connect_pool(process: WorkerProcess) -> None:
    """What happens where tasks are executed: once with the asyncio pool, in each child with prefork."""

    def begin(**_: object) -> None:
        if _runs_asyncio_pool():
            spawn(process.dispatch())
        else:
            process.leave_pipe_to_parent()

    signals.worker_process_init.connect(begin, weak=False)
