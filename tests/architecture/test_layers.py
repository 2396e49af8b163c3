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


def test_only_one_place_catches_everything() -> None:
    """`except Exception` needs a noqa with its reason; a bare except is never right."""
    for path in _sources("config", "services"):
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if re.search(r"except (Base)?Exception\b", line):
                assert re.search(r"noqa: BLE001 - \w+", line), f"{path}:{number}"
            assert not re.search(r"except\s*:", line), f"{path}:{number}"


def test_suppressions_have_a_code_and_a_reason() -> None:
    """`noqa` and `type: ignore` say which rule they suppress, and why."""
    for path in _sources("config", "services", "tests"):
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if path == Path(__file__):
                continue
            comment = line.partition("#")[2]
            if "noqa" in comment:
                assert re.search(r"noqa: [A-Z]+\d+(, [A-Z]+\d+)* - \S+", line), f"{path}:{number}"
            if "type: ignore" in comment:
                assert re.search(r"type: ignore\[[\w, -]+\]  # \S+", line), f"{path}:{number}"
