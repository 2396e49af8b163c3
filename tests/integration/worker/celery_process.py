"""Any `celery` process of ours, started for a test."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.integration.worker.lab import REPOSITORY


@contextmanager
def celery_process(
    *arguments: str, log: Path, environment: dict[str, str]
) -> Iterator["subprocess.Popen[bytes]"]:
    """A running `celery ...`, ended afterwards."""
    with log.open("ab") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "celery", *arguments],
            cwd=REPOSITORY,
            env=os.environ | environment,  # noqa: TID251 - the process's environment
            stdout=out,
            stderr=out,
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(10)
