"""Giving back what a dead process held."""

import logging
from uuid import uuid4

import pytest

from config.postgres import PostgresSettings
from services.core.runs.models import ApiKey, NewRun, shape_of
from services.core.runs.states import RunState
from services.core.runs.store import RunStore
from services.worker import postmortem
from tests.integration.servers import free_port
from tests.integration.worker.lab import as_environment

STEPS = ("first", "second")


@pytest.fixture
def environment(fresh_database: PostgresSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    """The settings of a container."""
    for name, value in as_environment(fresh_database, "POSTGRES_").items():
        monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("environment")
async def test_it_gives_back_and_says_what_happened(
    store: RunStore, api_key: ApiKey, caplog: pytest.LogCaptureFixture
) -> None:
    """One line: who died, of what, with which run on the CPU; that one is charged, the other not."""
    new = NewRun(key_id=api_key.id, pipeline="lab", input={}, step_names=STEPS)
    runs = [(await store.accept_run(new))[0] for _ in range(2)]
    shapes = {shape_of("lab", STEPS)}
    await store.claim_due_runs(owner="runs@host/1", limit=10, shapes=shapes)

    with caplog.at_level(logging.ERROR):
        await postmortem.give_back("runs@host/1", culprit=runs[0].id, how="SIGSEGV")

    culprit, other = [await store.get_run(api_key.id, run.id) for run in runs]
    assert [(RunState.QUEUED, 1), (RunState.QUEUED, 0)] == [
        (culprit.state, culprit.crashes),
        (other.state, other.crashes),
    ]
    line = f"worker runs@host/1 died (SIGSEGV): on the CPU was run {culprit.id}; 2 runs given back"
    assert line in caplog.text


@pytest.mark.usefixtures("environment")
async def test_it_does_not_wait_for_ever(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """With PostgreSQL away it gives up in time, and says what follows."""
    monkeypatch.setenv("POSTGRES_PORT", str(free_port()))
    monkeypatch.setattr(postmortem, "PATIENCE_S", 0.5)

    await postmortem.give_back("runs@host/1", culprit=uuid4(), how="exit status 1")

    assert "PostgreSQL is away, so its leases have to lapse" in caplog.text
