"""The server process below gunicorn."""

import gc
import os
import signal
from types import FrameType
from typing import Any

from uvicorn_worker import UvicornWorker  # type: ignore[import-untyped]  # it has no types

CUT_BEFORE_KILL_S = 3
"""Requests still open so long before gunicorn kills the process are cut, so that it can close what it uses."""

NOTIFY_S = 2
"""Seconds between two signs of life to gunicorn's master, and two looks at whether it still lives."""

GARBAGE_THRESHOLDS = (10_000, 20, 50)
"""New objects between two collections, and young collections between two of older objects: what a request makes is
hardly ever in a circle. As in a worker, where Python's own (700, 10, 10) cost most."""


class ApiWorker(UvicornWorker):  # type: ignore[misc]  # it has no types
    """uvicorn, told what gunicorn's settings cannot say."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.config.server_header = False
        self.config.timeout_notify = NOTIFY_S
        grace_s = self.cfg.graceful_timeout - CUT_BEFORE_KILL_S
        self.config.timeout_graceful_shutdown = max(1, grace_s)

    def run(self) -> None:
        """Serve. What there is by now stays as long as the process, so no garbage collection looks at it again.

        Under load each full one would take 90 ms, twice a second, and find nothing.
        """
        gc.collect()
        gc.freeze()
        gc.set_threshold(*GARBAGE_THRESHOLDS)
        super().run()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop the server when gunicorn says SIGQUIT, as it does at Ctrl-C: uvicorn-worker 0.4 only notes it."""
        super().handle_exit(sig, frame)
        signal.raise_signal(signal.SIGTERM)

    async def callback_notify(self) -> None:
        """Tell the master that this process lives, or stop if there is none any more.

        Without that, the processes of a killed master would keep the port and go on with old code.
        """
        await super().callback_notify()
        if os.getppid() != self.ppid:
            signal.raise_signal(signal.SIGTERM)
