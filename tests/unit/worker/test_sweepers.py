"""Sweeps."""

from types import SimpleNamespace
from uuid import UUID

import pytest

from config.celery import CelerySettings
from services.core.errors import StoreUnavailableError
from services.worker.identity import Identity
from services.worker.runtime import Runtime
from services.worker.sweepers import sweep_runs
from tests.fakes.memory_store import MemoryRunStore


class Hints:
    """A publisher that keeps its hints."""

    def __init__(self) -> None:
        self.given: list[tuple[UUID, bool]] = []

    def hint(self, run_id: UUID, *, is_isolated: bool = False) -> None:
        self.given.append((run_id, is_isolated))


def _runtime(store: MemoryRunStore, hints: Hints) -> Runtime:
    identity = Identity(
        "isolated@test", "worker-isolated", "isolated@test/1", frozenset({"tiny:ask,sign"})
    )
    return Runtime(CelerySettings(), identity, store, SimpleNamespace(), hints, SimpleNamespace())


async def test_due_runs_are_hinted_to_the_right_worker(store: MemoryRunStore) -> None:
    """Suspect runs go alone, the others to whoever has room."""
    ordinary, suspect = store.add_run(), store.add_run(is_isolated=True)
    hints = Hints()

    report = await sweep_runs(_runtime(store, hints))

    expected = [(ordinary.lease.run_id, False), (suspect.lease.run_id, True)]
    assert expected == hints.given
    assert {"requeued": 0, "hinted": 2} == report


async def test_a_sweep_shows_that_beat_and_its_worker_live(store: MemoryRunStore) -> None:
    """Beat has no store; its sweeps speak for it."""
    await sweep_runs(_runtime(store, Hints()))

    assert [("beat", "beat"), ("isolated@test", "worker-isolated")] == store.heartbeats


async def test_a_sweep_without_the_record_fails(store: MemoryRunStore) -> None:
    """It says so; the next one does the work."""
    store.is_away = True

    with pytest.raises(StoreUnavailableError):
        await sweep_runs(_runtime(store, Hints()))
