"""What the parent of prefork children does when one of them dies: its run goes back at once.

A child executes one run, alone, so its death is that run's crash. Celery notices it within a
second; the lease would take longer to tell.
"""

import os
import subprocess
import threading
from uuid import UUID

from services.worker.watcher import (
    POSTMORTEM_ENVIRONMENT,
    POSTMORTEM_TIMEOUT_S,
    postmortem_command,
)


def report_child_death(owner: str, run_id: str, how: str) -> None:
    """Give back the run that a child held as `owner`; returns at once, and does it beside."""
    try:
        run = UUID(run_id).hex
    except ValueError:
        return  # not a hint of ours
    command = postmortem_command(owner, run_on_cpu=run, how=how)
    threading.Thread(target=_run, args=(command,), name="postmortem", daemon=True).start()


def _run(command: list[str]) -> None:
    try:
        subprocess.run(  # noqa: S603 - our own command
            command,
            env=os.environ | POSTMORTEM_ENVIRONMENT,  # noqa: TID251 - its environment
            check=False,
            timeout=POSTMORTEM_TIMEOUT_S,
        )
    except subprocess.TimeoutExpired:
        return  # the lease lapses
