"""The suite notices when a safeguard is off: each mutant ends red by the verdict that the safeguard is there for.

Every trial is a local stack of its own, started from here: `pytest tests/chaos/test_mutants.py`, without a runner.
"""

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.chaos.mutations import MUTATIONS
from tests.chaos.tree import make_tree
from tests.chaos.verdict import GUARANTEES

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 600
SETTINGS = (
    "--set=CELERY_LEASE_TTL_S=10",
    "--set=CELERY_SWEEP_INTERVAL_S=1",
    "--set=CELERY_SHUTDOWN_GRACE_S=1",
)
AT_ONCE = 3
"""Trials side by side: they mostly wait, but two cores must start the processes of all."""


@dataclass(frozen=True, slots=True)
class Proof:
    """A cell that cannot succeed without a safeguard, and how it fails then."""

    cell: str
    guarantee: str
    """Which one is broken, by its name in GUARANTEES."""


PROOFS = {
    "fence": Proof("freeze one of two workers", "repeated_calls"),
    "sweep": Proof("kill worker", "unfinished"),
    "grace": Proof("PostgreSQL away, worker slow to return", "repeated_calls"),
    "commit": Proof("table locked", "committed_missing"),
}

pytestmark = pytest.mark.timeout(TIMEOUT_S)


@pytest.fixture(scope="module")
def trials() -> Iterator[Mapping[str, Future[subprocess.CompletedProcess[str]]]]:
    """The outcome of each mutant's cell, and, as `base`, of the same cells with every safeguard on."""
    cells = {"base": [proof.cell for proof in PROOFS.values()]}
    cells |= {mutation: [proof.cell] for mutation, proof in PROOFS.items()}
    with ThreadPoolExecutor(AT_ONCE) as threads:
        yield {name: threads.submit(_try, name, wanted) for name, wanted in cells.items()}


def test_every_mutation_has_a_proof() -> None:
    """A safeguard that can be switched off is one whose absence is noticed."""
    assert set(MUTATIONS) == set(PROOFS)


def test_the_cells_are_green_without_a_mutation(trials) -> None:
    """What turns them red is the mutation and nothing else."""
    done = trials["base"].result()

    assert done.returncode == 0, done.stdout
    assert f"{len(PROOFS)} passed" in done.stdout


@pytest.mark.parametrize("mutation", PROOFS)
def test_a_mutant_is_noticed(trials, mutation: str) -> None:
    """Not by any failure, but by the guarantee that the safeguard stands for."""
    done = trials[mutation].result()

    assert f"BROKEN: {GUARANTEES[PROOFS[mutation].guarantee]}: " in done.stdout, done.stdout
    assert done.returncode != 0


def _try(name: str, cells: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Run cells on a stack of a tree that has the mutation of that name, or none."""
    tree = ROOT / ".run/trees" / name
    make_tree(tree, mutation=name if name in MUTATIONS else None)
    trial = (sys.executable, "-m", "local", "trial", "--mode=local", f"--tree={tree}", *SETTINGS)
    tests = [f"tests/chaos/test_cells.py::test_every_guarantee_holds[{cell}]" for cell in cells]
    return subprocess.run(
        [*trial, sys.executable, "-m", "pytest", "--quiet", "-p", "no:cacheprovider", *tests],
        cwd=ROOT,
        env=_environment(),
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=TIMEOUT_S,
    )


def _environment() -> dict[str, str]:
    """Ours, without what a runner around us would hand to its own stack."""
    kept = {
        name: value
        for name, value in os.environ.items()  # noqa: TID251 - passed on
        if not name.startswith(("PENSTOCK_", "COMPOSE_"))
    }
    return kept | {"PENSTOCK_CHAOS": "hasty", "PYTHONPATH": str(ROOT / "docker")}
