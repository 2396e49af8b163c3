"""The server process below gunicorn."""

import signal
from types import FrameType
from typing import Any

from uvicorn_worker import UvicornWorker  # type: ignore[import-untyped]  # it has no types

CUT_BEFORE_KILL_S = 3
"""Requests still open so long before gunicorn kills the process are cut, so that it can close what it uses."""


class ApiWorker(UvicornWorker):  # type: ignore[misc]  # it has no types
    """uvicorn, told what gunicorn's settings cannot say."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.config.server_header = False
        grace_s = self.cfg.graceful_timeout - CUT_BEFORE_KILL_S
        self.config.timeout_graceful_shutdown = max(1, grace_s)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop the server when gunicorn says SIGQUIT, as it does at Ctrl-C: uvicorn-worker 0.4 only notes it."""
        super().handle_exit(sig, frame)
        signal.raise_signal(signal.SIGTERM)
