"""A rolling deploy, as docs/operations.md describes it."""

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
    scene.stack.stop_older("worker")
    scene.stack.redeploy("worker-isolated", scene.next_tree)
