"""A copy of what a pipeline touches, to scaffold into."""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[3]
COPIED = ("config", "services", "tests/fakes")
FILES = ("pyproject.toml", "Makefile", "tests/__init__.py", "tests/unit/__init__.py")
TIMEOUT_S = 200
TYPES = ROOT / ".mypy_cache" / "copies"
"""Kept from run to run: most of what mypy reads are packages, which are the same for each copy."""


@dataclass(frozen=True, slots=True)
class Copy:
    """A copy of the repository, with the packages of the real one."""

    root: Path

    def run(self, command: str) -> subprocess.CompletedProcess[str]:
        """Run a command in it, as somebody would type it there."""
        environment = {
            name: value
            for name, value in os.environ.items()  # noqa: TID251 - a child's environment, not ours
            if not name.startswith("PYTEST_")
        }
        return subprocess.run(
            command,
            shell=True,
            cwd=self.root,
            env=environment | {"PYTHON": sys.executable, "MYPY_CACHE_DIR": str(TYPES)},
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )

    def must_run(self, command: str) -> None:
        """Run a command that is to succeed."""
        done = self.run(command)
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"


def copy_repository(target: Path) -> Copy:
    """Copy into an empty folder."""
    for folder in COPIED:
        shutil.copytree(ROOT / folder, target / folder, ignore=shutil.ignore_patterns("__pycache__"))  # fmt: skip
    for file in (*FILES, "tests/unit/pipelines/__init__.py"):
        (target / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / file, target / file)
    (target / ".venv").symlink_to(sys.prefix)
    return Copy(target)
