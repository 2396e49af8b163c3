"""What one process of a worker holds: its runtime and, with the asyncio pool, its dispatcher."""

import asyncio
import os
from contextlib import AsyncExitStack
from pathlib import Path
from uuid import UUID

from celery import current_task

from services.worker.child_deaths import report_child_death
from services.worker.dispatcher import RunDispatcher
from services.worker.flight_recorder import FlightRecorder
from services.worker.identity import Identity, new_owner, owner_of_task, shapes_of
from services.worker.isolated import execute_isolated_run
from services.worker.run_marks import mark_runs
from services.worker.runtime import Blueprint, Runtime, open_runtime


class WorkerProcess:
    """Made once, before any fork; each process opens a runtime of its own, on its own loop."""

    def __init__(self, blueprint: Blueprint) -> None:
        self._blueprint = blueprint
        self._node = ""
        self._owner = ""
        self._recorder = FlightRecorder()
        self._opening = asyncio.Lock()
        self._exits = AsyncExitStack()
        self._runtime: Runtime | None = None
        self._dispatcher: RunDispatcher | None = None
        # Readable once nobody holds the other end: when the worker's parent process stops, or dies.
        self._stop_fd, self._hold_fd = os.pipe()

    def name(self, node: str) -> None:
        """Take the worker's node name, such as celery@host."""
        self._node = node
        self._owner = new_owner(node)

    async def runtime(self) -> Runtime:
        """The runtime of this prefork child, opened at the first call."""
        return await self._open("worker-isolated")

    async def _open(self, kind: str) -> Runtime:
        async with self._opening:
            if self._runtime is None:
                mark_runs(asyncio.get_running_loop(), self._recorder)
                shapes = shapes_of(self._blueprint.pipelines.values())
                identity = Identity(self._node, kind, self._owner, shapes)
                opening = open_runtime(self._blueprint, identity=identity)
                self._runtime = await self._exits.enter_async_context(opening)
            return self._runtime

    async def close(self) -> None:
        """Close what was opened."""
        await self._exits.aclose()

    # --- the asyncio pool ---------------------------------------------------------------------
    async def dispatch(self) -> None:
        """Begin to claim runs, on the pool's loop."""
        self._recorder = FlightRecorder.of_this_process()
        runtime = await self._open("worker")
        self._recorder.begin(self._owner)
        self._dispatcher = RunDispatcher(
            runtime.store,
            runtime.keeper,
            identity=runtime.identity,
            slots=self._blueprint.settings.concurrency,
            poll_interval_s=self._blueprint.settings.poll_interval_s,
        )
        self._dispatcher.start()

    def wake(self) -> None:
        """Take a hint; one that comes before the dispatcher has started tells it nothing new."""
        if self._dispatcher is not None:
            self._dispatcher.wake()

    async def drain(self, grace_s: float) -> None:
        """Claim nothing more, let runs end for `grace_s` seconds, and give the rest back."""
        if self._dispatcher is None or self._runtime is None:
            return
        for run_id in await self._dispatcher.drain(grace_s):
            self._runtime.publisher.hint(run_id)
        if not self._runtime.keeper.left_behind:
            self._recorder.say_goodbye()

    # --- prefork children ---------------------------------------------------------------------
    def leave_pipe_to_parent(self) -> None:
        """In a child: close the end of the stop pipe that the parent holds."""
        os.close(self._hold_fd)

    def stop_children(self) -> None:
        """In the parent: have children give back the runs that do not end within the grace period."""
        os.close(self._hold_fd)

    async def execute_isolated(self, run_id: UUID) -> bool:
        """Execute one suspect run in this process, if it is still due; whether it was."""
        return await execute_isolated_run(
            await self.runtime(),
            run_id,
            owner=owner_of_task(self._owner, current_task.request.id or str(run_id)),
            stop_fd=self._stop_fd,
            on_beat=self.touch_heartbeat_file,
        )

    def bury_child(self, task_id: str, run_id: str, how: str) -> None:
        """In the parent: give back the run that a child executed when it died."""
        report_child_death(owner_of_task(self._owner, task_id), run_id, how)

    # --- liveness -----------------------------------------------------------------------------
    def confirm_alive(self) -> None:
        """Take a probe: messages go through, and runs are claimed.

        Raises:
            RuntimeError: Claiming or heartbeats have ended.
        """
        if self._dispatcher is not None:
            self._dispatcher.check()
        self.touch_heartbeat_file()

    def touch_heartbeat_file(self) -> None:
        """Tell liveness.py that this worker is at work."""
        if self._blueprint.settings.heartbeat_file:
            Path(self._blueprint.settings.heartbeat_file).touch()

    def forget_heartbeat(self) -> None:
        """Remove what an earlier worker left in the heartbeat file."""
        if self._blueprint.settings.heartbeat_file:
            Path(self._blueprint.settings.heartbeat_file).unlink(missing_ok=True)
