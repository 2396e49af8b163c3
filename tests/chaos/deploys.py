"""A rolling deploy, as docs/operations.md describes it, and its undoing."""

from pathlib import Path
from typing import Final

from tests.chaos.scene import Scene

OLD_SHAPE: Final = """
    SELECT count(*) AS n FROM runs WHERE state IN ('queued', 'running') AND pipeline = 'drill_shifting'
    AND EXISTS (SELECT FROM steps WHERE steps.run_id = runs.id AND steps.name = 'third')
"""
"""Runs that only the old release can execute."""


def deploy_next(scene: Scene) -> None:
    """The new worker beside the old one, then the API; the old worker goes when its last run has ended."""
    scene.stack.start_beside("worker", scene.next_tree)
    scene.stack.redeploy("api", scene.next_tree)
    scene.until(OLD_SHAPE, at_most=0)
    _retire(scene, scene.next_tree)


def deploy_old(scene: Scene) -> None:
    """Back to the release before, when nothing runs."""
    scene.stack.start_beside("worker", scene.tree)
    scene.stack.redeploy("api", scene.tree)
    _retire(scene, scene.tree)


def _retire(scene: Scene, tree: Path) -> None:
    scene.stack.stop_older("worker")
    scene.stack.redeploy("worker-isolated", tree)
