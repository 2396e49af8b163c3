"""tests.chaos.tree: the copies of the code that chaos tests run."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.chaos.mutations import MUTATIONS, Change
from tests.chaos.tree import TreeError, _apply, make_tree

LIST_PIPELINES = """
from services.pipelines.registry import PIPELINES
for pipeline in PIPELINES.values():
    print(pipeline.name, *pipeline.step_names)
"""


def pipelines_of(tree: Path) -> dict[str, list[str]]:
    """The pipelines of a tree and their steps, as a service there sees them."""
    done = subprocess.run(
        [sys.executable, "-c", LIST_PIPELINES],
        cwd=tree,
        env={"PYTHONPATH": str(tree)},
        check=True,
        capture_output=True,
        text=True,
    )
    rows = [line.split() for line in done.stdout.splitlines()]
    return {name: steps for name, *steps in rows}


def test_a_tree_has_the_drill(tmp_path: Path) -> None:
    """Beside what is deployed, which has none."""
    make_tree(tmp_path)

    found = pipelines_of(tmp_path)
    assert {"outreach_email", "drill", "drill_shifting"} <= found.keys()
    assert ["first", "second", "third"] == found["drill"] == found["drill_shifting"]


def test_the_next_release_has_shapes_that_the_one_before_does_not_know(tmp_path: Path) -> None:
    """A tree can become it in place: a new pipeline, and a step of another name in an old one."""
    make_tree(tmp_path)
    make_tree(tmp_path, version="next")

    found = pipelines_of(tmp_path)
    assert ["first", "second", "third"] == found["drill"] == found["drill_next"]
    assert ["first", "second", "last"] == found["drill_shifting"]


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_every_mutation_changes_what_is_there(tmp_path: Path, mutation: str) -> None:
    """When the code that it switches off is written anew, this says so."""
    make_tree(tmp_path, mutation=mutation)

    for change in MUTATIONS[mutation]:
        assert change.new in (tmp_path / change.path).read_text()


@pytest.mark.parametrize("text", ["", "off", "on on"])
def test_a_change_that_does_not_fit_is_refused(tmp_path: Path, text: str) -> None:
    """A mutation that changed nothing, or too much, would prove nothing."""
    (tmp_path / "safeguard").write_text(text)

    with pytest.raises(TreeError, match="safeguard has"):
        _apply(Change("safeguard", "on", "off"), tmp_path)
