"""Faults of two parts, each of which lays bare one safeguard: without it, these cells cannot succeed."""

import time
from contextlib import suppress
from typing import Final

from tests.chaos.faults import Answers, Fault, beyond_lease, for_s
from tests.chaos.scene import Scene
from tests.chaos.stack import StackError

LOCKED_S: Final = 7
"""Seconds that the table is locked: longer than a statement may take (POSTGRES_STATEMENT_TIMEOUT_S)."""
PATIENCE_S: Final = 90.0
WORKERS: Final = """
    SELECT count(*) AS n FROM heartbeats WHERE kind = 'worker' AND at > now() - interval '10 s'
"""
LOCK: Final = (
    'PGPASSWORD="$(cat "$POSTGRES_PASSWORD_FILE")" psql --host=127.0.0.1 '
    '--username="$POSTGRES_USER" --dbname="$POSTGRES_DB" '
    '--command="BEGIN" --command="LOCK TABLE runs IN EXCLUSIVE MODE" '
    f'--command="SELECT pg_sleep({LOCKED_S})" --command="COMMIT" </dev/null >/dev/null 2>&1 &'
)
LOCKS: Final = """
    SELECT count(*) AS n FROM pg_locks
    WHERE relation = 'runs'::regclass AND mode = 'ExclusiveLock' AND granted
"""


def _lock_runs(scene: Scene) -> None:
    scene.stack.shell("postgres", LOCK)
    scene.until(LOCKS, at_least=1)


def _until_unlocked(scene: Scene) -> None:
    scene.until(LOCKS, at_most=0)


def _add_worker(scene: Scene) -> None:
    scene.stack.scale("worker", 2)
    _until(scene, WORKERS, at_least=2)


def _remove_worker(scene: Scene) -> None:
    scene.stack.scale("worker", 1)


def _return_to_slow_worker(scene: Scene) -> None:
    scene.stack.pause("worker")
    scene.stack.start("postgres")
    _until(scene, "SELECT 1 AS n", at_least=1)
    time.sleep(1.5 * scene.sweep_s)
    scene.stack.resume("worker")


def _until(scene: Scene, query: str, *, at_least: int) -> None:
    """As Scene.until(), for longer, and while PostgreSQL is on its way."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        with suppress(StackError):
            if scene.stack.sql(query)[0]["n"] >= at_least:
                return
        if time.monotonic() > deadline:
            raise StackError(f"not within {PATIENCE_S:g} s: {query}")
        time.sleep(0.1)


COMPOUNDS: Final = (
    Fault(
        "freeze one of two workers",
        "a worker stands still for longer than its leases while another takes its runs over, then goes on",
        lambda scene: scene.stack.pause("worker", is_first_only=True),
        lambda scene: scene.stack.resume("worker", is_first_only=True),
        hold_s=beyond_lease,
        input={"seconds": 4},
        is_full_only=True,
        prepare=_add_worker,
        restore=_remove_worker,
    ),
    Fault(
        "PostgreSQL away, worker slow to return",
        "PostgreSQL is killed, away for longer than a lease, and back for a sweep before the worker moves again",
        lambda scene: scene.stack.kill("postgres"),
        _return_to_slow_worker,
        hold_s=beyond_lease,
        answers=Answers.ANY,
        moments=0,
        input={"seconds": 5},
        is_full_only=True,
    ),
    Fault(
        "table locked",
        "a lock on the table of runs for longer than a statement may take, as of a careless migration",
        _lock_runs,
        _until_unlocked,
        hold_s=for_s(LOCKED_S - 1),
        answers=Answers.ANY,
    ),
)
