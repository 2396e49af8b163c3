"""An environment per peer, so that nobody's dependencies bend another's."""

import hashlib
import re
import subprocess
import sys
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[3]
ENVIRONMENTS: Final = ROOT / ".run/bench"
UV: Final = ROOT / ".venv/uv/bin/uv"
INSTALL_S: Final = 600.0


def python_of(peer: str) -> Path:
    """The interpreter of a peer's environment, which is made or brought up to date first."""
    requirements = requirements_of(peer)
    folder = ENVIRONMENTS / peer
    stamp = folder / ".requirements"
    digest = hashlib.sha256(requirements.read_bytes()).hexdigest()
    python = folder / "bin/python"
    if not stamp.exists() or stamp.read_text() != digest:
        _run("venv", "--quiet", "--allow-existing", f"--python={sys.executable}", str(folder))
        into = (f"--python={python}", "--require-hashes", str(requirements))
        _run("pip", "sync", "--quiet", *into)
        stamp.write_text(digest)
    return python


def requirements_of(peer: str) -> Path:
    """The file that pins a peer's packages."""
    return ROOT / f"requirements/bench-{peer}.txt"


def versions_of(requirements: Path, *packages: str) -> dict[str, str]:
    """The versions that a file of requirements pins."""
    pinned = dict(re.findall(r"^([\w.-]+)==([\w.+-]+)", requirements.read_text(), re.MULTILINE))
    return {package: pinned[package] for package in packages}


def _run(*command: str) -> None:
    subprocess.run([UV, *command], check=True, timeout=INSTALL_S)
