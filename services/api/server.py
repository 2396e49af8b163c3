"""The server process below gunicorn."""

from typing import Any

from uvicorn_worker import UvicornWorker  # type: ignore[import-untyped]  # it has no types

CUT_BEFORE_KILL_S = 3
"""Requests still open so long before gunicorn kills the process are cut, so that it can close what it uses."""


class ApiWorker(UvicornWorker):  # type: ignore[misc]  # it has no types
    """uvicorn, told what gunicorn's settings cannot say."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.config.server_header = False
        self.config.access_log = False
        self.config.timeout_graceful_shutdown = max(
            1, self.cfg.graceful_timeout - CUT_BEFORE_KILL_S
        )
