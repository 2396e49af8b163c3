"""One death and many runs; a few poison runs among many innocent ones."""

import uuid
from dataclasses import replace

import pytest

from tests.chaos.cell import Plan, run_cell
from tests.chaos.conftest import IS_FULL
from tests.chaos.fault_table import kill_inside
from tests.chaos.faults import Fault, nothing
from tests.chaos.scene import Scene

pytestmark = pytest.mark.timeout(600)

HELD = 500 if IS_FULL else 200
CROWD = 1_000 if IS_FULL else 100
POISON = 10 if IS_FULL else 2
QUIET_S = 3_600.0
"""No probes: the numbers of runs are exact."""

DEATH = Fault(
    f"kill pool process with {HELD} runs",
    f"SIGKILL of the process that executes {HELD} runs",
    kill_inside("worker"),
    runs=HELD,
    running=HELD,
    input={"seconds": 8.0},
    has_emails=False,
)
POISONED_CROWD = Fault(
    f"{POISON} poison runs among {CROWD}",
    "steps that call os._exit; every other run must succeed",
    nothing,
    moments=3 * POISON,
    runs=CROWD,
    poison={"poison": "exit", "poison_step": "second"},
    poison_every=CROWD // POISON,
    # They die one after the other, and each death interrupts the others anew.
    bound_s=lambda scene: POISON * scene.bound_s,
)


async def test_a_worker_that_holds_500_runs_dies(scene: Scene, plan: Plan, results) -> None:
    """All finish, none fails, and no completed step is repeated."""
    scene.stack.wait_healthy()
    quiet = replace(plan, probe_every_s=QUIET_S, timeout_s=120)

    verdict = await run_cell(scene, DEATH, quiet, prefix=f"death-{uuid.uuid4().hex[:8]}")
    results.add(DEATH, verdict)

    assert verdict.is_good, str(verdict)
    assert verdict.runs >= HELD


async def test_poison_runs_are_found_among_innocent_ones(scene: Scene, plan: Plan, results) -> None:
    """Exactly the poison runs fail, as crashed, each after exactly three crashes; all others succeed."""
    scene.stack.wait_healthy()
    quiet = replace(plan, probe_every_s=QUIET_S, timeout_s=400)

    verdict = await run_cell(scene, POISONED_CROWD, quiet, prefix=f"crowd-{uuid.uuid4().hex[:8]}")
    results.add(POISONED_CROWD, verdict)

    assert verdict.is_good, str(verdict)
