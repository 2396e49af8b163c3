"""How soon a whole stack of containers is healthy."""

import os
import subprocess
import sys
import time
from collections.abc import Mapping
from functools import cache

from tests.bench.benchmark import Benchmark, Goal, Rounds, median_of
from tests.bench.stack import ROOT

LONGEST_S = 600.0
NOW = "import time; print('healthy at', time.monotonic())"
"""A clock that all processes of a machine share."""


def up() -> Mapping[str, float]:
    """Start a stack of its own with empty volumes, from images that are there."""
    _build()
    return {"healthy": _healthy_s()}


@cache
def _build() -> None:
    """The first start builds what is not there, and does not count."""
    _healthy_s()


def _healthy_s() -> float:
    """Seconds from the command until its stack is healthy; then the stack is removed again."""
    began_s = time.monotonic()
    command = ["-m", "local", "trial", "--name", "bench", "--mode", "compose"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "docker")}  # noqa: TID251 - handed on
    output = subprocess.run(
        [sys.executable, *command, sys.executable, "-c", NOW],
        cwd=ROOT,
        env=environment,
        check=True,
        timeout=LONGEST_S,
        stdout=subprocess.PIPE,
        text=True,
    ).stdout
    return float(output.rpartition("healthy at")[2]) - began_s


def healthy_s(rounds: Rounds) -> float:
    """Seconds until all services are healthy."""
    return median_of(rounds, "Penstock", "healthy")


BENCHMARK = Benchmark(
    name="up",
    title="Start of a stack",
    what="All services of compose.yaml and the simulator start with Docker Compose as `make up` starts them: secrets"
    " are written, an image that is there is found up to date, containers are made with empty volumes, the record is"
    " migrated, and all are healthy.",
    units={"healthy": "s"},
    subjects={"Penstock": up},
    goals=(
        Goal(
            name="Built images to a healthy stack",
            bound=15,
            unit="s",
            is_at_most=True,
            of=healthy_s,
        ),
    ),
)
