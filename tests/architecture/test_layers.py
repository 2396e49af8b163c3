"""The house keeps its layers; what import-linter cannot see is checked here."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def _sources(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def test_imports_keep_the_layers() -> None:
    """The contracts in pyproject.toml hold: run `lint-imports` to see the chains of those that do not."""
    command = [Path(sys.executable).with_name("lint-imports"), "--no-cache", "--no-logo"]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False
    )

    assert done.returncode == 0, done.stdout + done.stderr


def test_no_drawer_for_leftovers() -> None:
    """No module is called utils, helpers, common, base or manager."""
    drawers = re.compile(r"(^|_)(utils?|helpers?|common|base|managers?|misc)$")
    found = [path for path in _sources("config", "services") if drawers.search(path.stem)]

    assert found == []


def test_modules_are_short() -> None:
    """A module that nobody can read at one sitting is two modules."""
    long = {
        str(path.relative_to(ROOT)): lines
        for path in _sources("config", "services")
        if (lines := len(path.read_text().splitlines())) > 400
    }

    assert long == {}


def _lines_with(text: str) -> list[tuple[str, str]]:
    """Lines of our code with a text, and where they are."""
    return [
        (f"{path.relative_to(ROOT)}:{number}", line)
        for path in _sources("config", "services", "tests")
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if text in line and path != Path(__file__)
    ]


def test_suppressions_have_a_code_and_a_reason() -> None:
    """`noqa` and `type: ignore` say which rule they suppress, and why."""
    noqa = re.compile(r"# noqa: [A-Z]+\d+(, [A-Z]+\d+)* - \S+")
    ignore = re.compile(r"# type: ignore\[[\w, -]+\]  # \S+")
    silent = [place for place, line in _lines_with("# noqa") if not noqa.search(line)]
    silent += [place for place, line in _lines_with("# type: ignore") if not ignore.search(line)]

    assert silent == []
