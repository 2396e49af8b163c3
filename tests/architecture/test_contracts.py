"""Lists that must agree with each other: tasks, pipelines, errors, services, words."""

import inspect
import re
import tomllib
from pathlib import Path

import pytest

import services
from services.core import errors
from services.core.queue.contracts import QUEUE_OF_TASK, QueueName, TaskName
from services.core.runs.states import EventType, FailureReason, RunState, StepState
from services.pipelines import registry

ROOT = Path(__file__).parents[2]
SERVICES = ROOT / "services"
SENT_TO_ONE_WORKER = {TaskName.PROBE_WORKER}
"""Tasks on a queue that only one worker reads."""


def _folders(parent: Path) -> set[str]:
    return {path.parent.name for path in parent.glob("*/__init__.py")}


def _drawn_tree(text: str) -> dict[str, str | None]:
    """Each class of a drawing made with ├── and └──, with the one it hangs from."""
    above: list[str] = []
    parents: dict[str, str | None] = {}
    for line in text.splitlines():
        found = re.fullmatch(r"([│ ]*)(?:[├└]── )?(\w+Error)", line)
        if found:
            depth = 0 if line.startswith(found[2]) else len(found[1]) // 4 + 1
            above[depth:] = [found[2]]
            parents[found[2]] = above[depth - 1] if depth else None
    return parents


def _real_tree() -> dict[str, str | None]:
    classes = [item for item in vars(errors).values() if inspect.isclass(item)]
    real = [item for item in classes if item.__module__ == errors.__name__]
    return {
        item.__name__: item.__base__.__name__ if item is not errors.PenstockError else None
        for item in real
    }


def test_the_drawing_of_errors_is_true() -> None:
    """The tree at the top of errors.py is the tree of classes below it."""
    drawn, real = _drawn_tree(errors.__doc__ or ""), _real_tree()

    assert drawn == real


def test_every_error_says_what_happened_in_its_docstring() -> None:
    """The docstring is the default message, and names end in Error."""
    for name in _real_tree():
        assert name.endswith("Error")
        assert getattr(errors, name).__doc__.strip().endswith("."), name


def test_every_task_has_a_queue() -> None:
    """A task that nobody routes would wait on Celery's default queue, which nobody reads."""
    assert set(TaskName) == set(QUEUE_OF_TASK) | SENT_TO_ONE_WORKER
    assert set(QUEUE_OF_TASK.values()) == set(QueueName)


def test_every_task_is_declared_once() -> None:
    """A name without a task would be discarded by the worker that gets it, in silence."""
    code = "\n".join(path.read_text() for path in (SERVICES / "worker").glob("*.py"))

    for task in TaskName:
        assert [f"name=TaskName.{task.name}"] == re.findall(rf"name=TaskName\.{task.name}\b", code)


def test_names_on_the_wire_are_dotted() -> None:
    """Tasks and events read as noun.verb."""
    for name in [*TaskName, *EventType]:
        assert re.fullmatch(r"[a-z]+\.[a-z_]+", name), name


def test_every_pipeline_folder_is_registered() -> None:
    """A pipeline without a registry line would be dead code."""
    assert set(registry.PIPELINES) == _folders(SERVICES / "pipelines")


def test_every_registered_pipeline_has_examples_that_fit() -> None:
    """The examples in the OpenAPI document can be posted as they are."""
    for pipeline in registry.PIPELINES.values():
        assert pipeline.input_examples, pipeline.name
        for example in pipeline.input_examples:
            pipeline.input_type.model_validate(example)


def test_the_version_is_said_once_per_place() -> None:
    """pyproject.toml and the code agree about the version."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

    assert project["version"] == services.__version__


@pytest.mark.parametrize(
    "word",
    [
        *(word for enum in (RunState, StepState, FailureReason) for word in enum),
        "run", "step", "attempt", "checkpoint", "lease", "fence", "event", "dead letter", "replay", "hint", "pipeline",
    ],
)  # fmt: skip
def test_every_word_of_the_house_is_in_the_glossary(word: str) -> None:
    """One word per idea, and one place that says which."""
    glossary = (ROOT / "docs" / "glossary.md").read_text().lower()

    assert f"**{word}**" in glossary
