"""The bytes that outlive a process."""

import os
from pathlib import Path
from uuid import uuid4

import pytest

from services.worker.flight_recorder import FD_VARIABLE, SIZE, FlightRecorder


@pytest.fixture
def shared_fd(tmp_path):
    """A file of the right size."""
    fd = os.open(tmp_path / "recorder", os.O_RDWR | os.O_CREAT)
    os.truncate(fd, SIZE)
    yield fd
    os.close(fd)


def test_what_one_writes_the_other_reads(shared_fd: int) -> None:
    """Two views of one file: as watcher and worker have them."""
    worker, watcher = FlightRecorder.open(shared_fd), FlightRecorder.open(shared_fd)
    run = uuid4()

    worker.begin("runs@höst/1")
    worker.mark(run.bytes)

    assert ("runs@höst/1", run.hex) == (watcher.owner, watcher.run_on_cpu)


def test_a_new_one_names_nobody(shared_fd: int) -> None:
    """A process that died before its first claim held nothing."""
    recorder = FlightRecorder.open(shared_fd)

    assert (None, None) == (recorder.owner, recorder.run_on_cpu)


def test_after_a_goodbye_nobody_is_named(shared_fd: int) -> None:
    """A worker that has given everything back needs no postmortem."""
    recorder = FlightRecorder.open(shared_fd)
    recorder.begin("runs@host/1")

    recorder.say_goodbye()

    assert recorder.owner is None


def test_the_watcher_says_where_it_is(shared_fd: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a variable; without a watcher there is a recorder all the same."""
    monkeypatch.setenv(FD_VARIABLE, str(shared_fd))
    FlightRecorder.of_this_process().begin("runs@host/1")
    monkeypatch.delenv(FD_VARIABLE)
    alone = FlightRecorder.of_this_process()
    alone.begin("alone/1")

    assert "runs@host/1" == FlightRecorder.open(shared_fd).owner
    assert "alone/1" == alone.owner


def test_a_descriptor_that_was_closed_does_no_harm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Celery closes all files before it restarts itself; the number may be another file's by then."""
    other = os.open(tmp_path / "other", os.O_RDWR | os.O_CREAT)
    monkeypatch.setenv(FD_VARIABLE, str(other))
    FlightRecorder.of_this_process().begin("runs@host/1")
    os.close(other)
    FlightRecorder.of_this_process().begin("runs@host/2")

    assert b"" == (tmp_path / "other").read_bytes()
