"""The stack that chaos tests do things to, and the form of the suite."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.cell import Plan
from tests.chaos.compose_stack import ComposeStack
from tests.chaos.evidence import Ledger
from tests.chaos.facts import describe
from tests.chaos.fault_table import FAULTS
from tests.chaos.faults import Fault
from tests.chaos.results import Results
from tests.chaos.scene import Scene
from tests.chaos.stack import Addresses, Stack, from_runner
from tests.chaos.tree import make_tree

ROOT = Path(__file__).parents[2]
FORM = os.environ.get("PENSTOCK_CHAOS") or "short"  # noqa: TID251 - how tests run is no setting
IS_FULL = FORM == "full"
MODE = os.environ.get("PENSTOCK_E2E_MODE", "compose")  # noqa: TID251 - same
PLANS = {
    "short": Plan(runs=24, probe_every_s=0.2, watchers=4, timeout_s=45, seed=1),
    # As many as leave two cores time for what is measured, which is the fault and not the load.
    "full": Plan(runs=100, probe_every_s=0.2, watchers=8, timeout_s=120, seed=1, after_s=2.0),
    # For mutants, which never finish some runs: nobody waits long for them.
    "hasty": Plan(runs=12, probe_every_s=0.5, watchers=2, timeout_s=30, seed=1),
}


STACKS: list[dict[str, str]] = json.loads(os.environ.get("PENSTOCK_E2E_STACKS", "[]"))  # noqa: TID251 - same
FIRST = ("test_storm", "test_crowd")
"""They last the longest, so that what comes last does not keep one stack busy while the others wait."""


def pytest_configure() -> None:
    """Each process of pytest-xdist has a stack of its own."""
    worker = os.environ.get("PYTEST_XDIST_WORKER", "")  # noqa: TID251 - same
    if worker:
        os.environ.update(STACKS[int(worker.removeprefix("gw"))])  # noqa: TID251 - same


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest first where stacks share the work; a deploy, which stays, comes last in any case."""
    if "PYTEST_XDIST_WORKER" in os.environ:  # noqa: TID251 - same
        items.sort(key=lambda item: item.path.stem not in FIRST)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Every fault that this mode and this form have is a test."""
    if "fault" in metafunc.fixturenames:
        chosen = [fault for fault in FAULTS if is_chosen(fault)]
        metafunc.parametrize("fault", chosen, ids=[fault.name for fault in chosen])


def is_chosen(fault: Fault) -> bool:
    """It happens in this mode and in this form of the suite."""
    return MODE in fault.modes and (FORM != "short" or not fault.is_full_only)


@pytest.fixture(scope="session")
def plan() -> Plan:
    """How much happens in a cell."""
    return PLANS[FORM]


@pytest.fixture(scope="session")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """The running stack."""
    addresses, stack = Addresses.from_runner(), _stack()
    next_tree = Path(from_runner("RUN_DIR")) / "next-tree"
    make_tree(next_tree, version="next")
    ledger = Ledger(addresses)
    yield Scene(
        stack,
        ledger,
        addresses,
        lease_s=float(stack.setting("CELERY_LEASE_TTL_S", "30")),
        sweep_s=float(stack.setting("CELERY_SWEEP_INTERVAL_S", "3")),
        max_crashes=int(stack.setting("CELERY_MAX_CRASHES", "3")),
        call_timeout_s=float(stack.setting("ANTHROPIC_TIMEOUT_S", "120")),
        tree=Path(from_runner("TREE")),
        next_tree=next_tree,
    )
    ledger.close()


@pytest.fixture(scope="session")
def results(scene: Scene) -> Results:
    """Where cells write down what they found; each process of pytest-xdist on its own."""
    worker = os.environ.get("PYTEST_XDIST_WORKER")  # noqa: TID251 - same
    name = "-".join(filter(None, (MODE, FORM, worker)))
    return Results(ROOT / ".run/chaos" / f"{name}.json", describe(scene, form=FORM))


def _stack() -> Stack:
    if MODE == "compose":
        return ComposeStack()
    from tests.chaos.local_stack import LocalStack  # noqa: PLC0415 - local mode's own

    return LocalStack()
