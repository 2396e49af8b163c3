"""A tree: a copy of what a stack runs, with the drill pipeline and, if wanted, a mutation or the next release.

`python -m tests.chaos.tree TARGET [--mutation NAME] [--version next]`. `python -m local trial --tree TARGET` runs it.
A tree that is there is brought up to date in place, so that containers that have it mounted go on seeing it.
"""

import argparse
import shutil
import sys
from pathlib import Path

from tests.chaos.mutations import MUTATIONS, Change

ROOT = Path(__file__).parents[2]
OVERRIDE = "compose.override.yaml"
COPIED = ("config", "services", "docker", "requirements", "compose.yaml", OVERRIDE)
DRILL = "tests/fakes/drill"
REGISTRY = "services/pipelines/registry.py"
FIRST_LINE = "PIPELINES: dict[str, Pipeline[Any]] = {\n"
MODULES = {"base": "pipeline", "next": "next_release"}
"""Where each version keeps its drills."""
RELOADING_API = """\
    command:
      - uvicorn
      - --factory
      - services.api.app:create_app
      - --host=0.0.0.0
      - --port=8000
      - --reload
      - --reload-dir=config
      - --reload-dir=services
      - --timeout-graceful-shutdown=10
"""
"""How development starts the API. Local mode reads the same file, but must run here what is deployed."""
IGNORED = shutil.ignore_patterns("__pycache__", "*.pyc", ".mypy_cache")


class TreeError(Exception):
    """The code is not what a change expects."""


def make_tree(target: Path, *, mutation: str | None = None, version: str = "base") -> None:
    """Write the tree.

    Args:
        target: Where it goes; what is there and not in the tree stays.
        mutation: One of MUTATIONS.
        version: base, or next for a newer release of the drills.

    Raises:
        TreeError: A text that is to be replaced is not there exactly once.
    """
    for name in COPIED:
        _copy(ROOT / name, target / name)
    _copy(ROOT / DRILL, target / "services/pipelines/drill")
    for file in (target / "services/pipelines/drill").glob("*.py"):
        text = file.read_text()
        file.write_text(text.replace("tests.fakes.drill", "services.pipelines.drill"))
    for change in (*_always(version), *(MUTATIONS[mutation] if mutation else ())):
        _apply(change, target)


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target, ignore=IGNORED, dirs_exist_ok=True)
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, target)


def _always(version: str) -> tuple[Change, ...]:
    after = "from services.pipelines.definition import Pipeline\n"
    drills = f"from services.pipelines.drill.{MODULES[version]} import DRILLS\n"
    return (
        Change(REGISTRY, after, after + drills),
        Change(
            REGISTRY, FIRST_LINE, f"{FIRST_LINE}    **{{drill.name: drill for drill in DRILLS}},\n"
        ),
        Change(OVERRIDE, RELOADING_API, ""),
    )


def _apply(change: Change, tree: Path) -> None:
    file = tree / change.path
    text = file.read_text()
    found = text.count(change.old)
    if found != 1:
        raise TreeError(f"{change.path} has {found} times, not once: {change.old}")
    file.write_text(text.replace(change.old, change.new))


def main() -> int:
    """Make a tree; a text that is not found is one line and an exit status."""
    parser = argparse.ArgumentParser(prog="tests.chaos.tree", description=__doc__)
    parser.add_argument("target", type=Path)
    parser.add_argument("--mutation", choices=sorted(MUTATIONS))
    parser.add_argument("--version", choices=sorted(MODULES), default="base")
    options = parser.parse_args()
    try:
        make_tree(options.target, mutation=options.mutation, version=options.version)
    except TreeError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
