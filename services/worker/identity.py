"""How a process is known in the record."""

from collections.abc import Iterable
from dataclasses import dataclass
from secrets import token_hex
from typing import Any

from services.core.runs.models import shape_of
from services.pipelines.definition import Pipeline


@dataclass(frozen=True, slots=True)
class Identity:
    """Name, kind and abilities of a process."""

    process: str
    """Node name, such as runs@host; the next process of that worker has it again."""
    kind: str
    """worker or worker-isolated."""
    owner: str
    """Under which name it holds leases: of this very process, so that its end says whose they were."""
    shapes: frozenset[str]
    """The runs that it can execute."""


def new_owner(process: str) -> str:
    """An owner name that no process had before."""
    return f"{process}/{token_hex(4)}"


def owner_of_task(owner: str, task_id: str) -> str:
    """The owner name of a prefork child while it executes a task, from that of its parent.

    Celery tells the parent the task of a child that died, not which child it was.
    """
    return f"{owner}.{task_id}"


def shapes_of(pipelines: Iterable[Pipeline[Any]]) -> frozenset[str]:
    """The shapes of the runs of these pipelines."""
    return frozenset(shape_of(pipeline.name, pipeline.step_names) for pipeline in pipelines)
