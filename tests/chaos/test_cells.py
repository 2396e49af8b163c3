"""Every fault once, in the middle of runs: what was accepted is finished, once, and nothing is paid for twice."""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.chaos.cell import Plan, run_cell
from tests.chaos.faults import Fault
from tests.chaos.scene import Scene

pytestmark = pytest.mark.timeout(300)


async def test_every_guarantee_holds(scene: Scene, fault: Fault, plan: Plan, results) -> None:
    """No guarantee is broken by the fault, and the stack goes on by itself."""
    scene.stack.wait_healthy()
    with _prepared(fault, scene):
        verdict = await run_cell(scene, fault, plan, prefix=f"cell-{uuid.uuid4().hex[:8]}")
    results.add(fault, verdict)

    assert verdict.is_good, f"{fault.name}: {verdict}"


@contextmanager
def _prepared(fault: Fault, scene: Scene) -> Iterator[None]:
    """Put up what the fault needs, and take it down whatever happens."""
    try:
        if fault.prepare:
            fault.prepare(scene)
        yield
    finally:
        if fault.restore:
            fault.restore(scene)
