"""Each API process sweeps too."""

import asyncio
import dataclasses

import pytest
from uuid_utils.compat import uuid7

import services.api.full_disk
from services.api.app import create_app
from services.api.dependencies import Dependencies
from services.api.full_disk import FullDisk
from services.api.sweeper import Sweeper
from services.core.errors import StoreFullError
from services.core.runs.models import DueHint
from tests.fakes.run_store import InMemoryRunStore
from tests.unit.api.conftest import RecordingPublisher


async def test_due_runs_are_hinted_each_to_its_worker(
    store: InMemoryRunStore, publisher: RecordingPublisher
) -> None:
    """Lapsed leases are requeued first, so that their runs are hinted in the same sweep."""
    ordinary, suspect = uuid7(), uuid7()
    store.due_hints = [
        DueHint(run_id=ordinary, is_isolated=False),
        DueHint(run_id=suspect, is_isolated=True),
    ]
    sweeper = Sweeper(store, publisher, FullDisk(), interval_s=3)  # type: ignore[arg-type]  # fakes

    pause_s = await sweeper.sweep()

    assert [(ordinary, False), (suspect, True)] == publisher.hints
    assert store.statements == ["requeue_lapsed_runs", "take_due_hints"]
    assert 2 < pause_s < 4


async def test_processes_do_not_sweep_in_step(
    store: InMemoryRunStore, publisher: RecordingPublisher
) -> None:
    """Their pauses differ."""
    sweeper = Sweeper(store, publisher, FullDisk(), interval_s=3)  # type: ignore[arg-type]  # fakes

    assert len({await sweeper.sweep() for _ in range(5)}) == 5


async def test_a_started_app_sweeps_again_and_again(
    dependencies: Dependencies, store: InMemoryRunStore, publisher: RecordingPublisher
) -> None:
    """Without beat nothing stays stuck; the publisher is open meanwhile and closed afterwards."""
    app = create_app(dataclasses.replace(dependencies, sweep_interval_s=0.005))
    async with app.router.lifespan_context(app), asyncio.timeout(5):
        while store.statements.count("take_due_hints") < 3:
            await asyncio.sleep(0.002)
        assert publisher.is_started

    assert not publisher.is_started


async def test_a_sweep_that_finds_the_disk_full_says_so(
    store: InMemoryRunStore, publisher: RecordingPublisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For a minute; the disk that stays full refuses another sweep before that is over."""

    async def refuse(*, limit: int = 500) -> list[DueHint]:
        raise StoreFullError

    full_disk = FullDisk()
    store.take_due_hints = refuse  # type: ignore[method-assign]  # a full disk
    with pytest.raises(StoreFullError):
        await Sweeper(store, publisher, full_disk, interval_s=3).sweep()  # type: ignore[arg-type]  # fakes

    assert full_disk.is_recent
    monkeypatch.setattr(services.api.full_disk, "MEMORY_S", 0)
    assert not full_disk.is_recent
