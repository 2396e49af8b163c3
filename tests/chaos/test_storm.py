"""Storms of faults from fixed seeds."""

import uuid

import pytest

from tests.chaos.conftest import IS_FULL
from tests.chaos.scene import Scene
from tests.chaos.storm import Storm, run_storm

pytestmark = pytest.mark.timeout(900)
SEEDS = (11, 23, 42, 77)
SHARE = 0.85
"""The rest may meet a service that is down already."""
STORMS = (
    [Storm(seed, runs=2_600, faults=150, duration_s=220, timeout_s=180) for seed in SEEDS]
    if IS_FULL
    else [Storm(SEEDS[0], runs=200, faults=15, duration_s=25, timeout_s=60)]
)


@pytest.mark.parametrize("storm", STORMS, ids=[f"seed-{storm.seed}" for storm in STORMS])
async def test_a_storm_breaks_nothing(scene: Scene, storm: Storm, results) -> None:
    """Faults of all kinds, several at once, while runs are posted: every guarantee holds in the end."""
    scene.stack.wait_healthy()

    verdict, weather = await run_storm(scene, storm, prefix=f"storm-{uuid.uuid4().hex[:8]}")
    what = f"{len(weather.struck)} faults in {storm.duration_s:g} s"
    results.add_row(f"storm, seed {storm.seed}", what, verdict)

    assert len(weather.struck) >= SHARE * storm.faults, weather.errors
    assert verdict.is_good, f"{verdict}\n{weather.errors}"
