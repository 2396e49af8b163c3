"""Hints: few for many runs, one for each suspect, and none for nothing."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID, uuid4

import pytest

from services.core.queue import outbox, publisher
from services.core.queue.publisher import (
    FULL_QUEUE,
    WAKE_UPS_PER_FLUSH,
    WAKE_UPS_WAITING,
    HintPublisher,
)


class RecordingApp:
    """Stands for Celery: notes what is sent, and lets nothing go before it is told to."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, UUID]] = []
        self.sent_before_looks: list[int] = []
        """How many were sent before each look at the queue."""
        self.depth = 0
        self.is_failing = False
        self.may_send = threading.Event()

    @property
    def producer_pool(self) -> "RecordingApp":
        """Where producers come from."""
        return self

    @contextmanager
    def acquire(self, *, block: bool) -> Iterator[None]:
        """A producer."""
        assert block
        self.may_send.wait(5)
        yield

    def look(self) -> int:
        """Messages in the queue."""
        self.sent_before_looks.append(len(self.sent))
        return self.depth

    def send_task(self, task: str, *, kwargs: dict[str, Any], **_: object) -> None:
        """Note it."""
        if self.is_failing:
            raise OSError
        self.sent.append((task, UUID(kwargs["run_id"])))


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> RecordingApp:
    """A queue with room."""
    app = RecordingApp()
    monkeypatch.setattr(publisher, "queue_depth", lambda *_: app.look())
    return app


def test_a_burst_is_a_few_hints_and_suspects_have_their_own(app: RecordingApp) -> None:
    """What would not be sent is not kept, whatever else waits."""
    hints = HintPublisher(app)  # type: ignore[arg-type]  # it has what is used
    runs, suspects = [uuid4() for _ in range(50)], [uuid4() for _ in range(10)]

    for run_id in runs:
        hints.hint(run_id)
    for run_id in suspects:
        hints.hint(run_id, is_isolated=True)
    app.may_send.set()
    hints.close()

    sent = [run_id for task, run_id in app.sent if task == "runs.execute"]
    assert 1 <= len(sent) <= 2 * WAKE_UPS_PER_FLUSH
    assert set(sent) <= set(runs)
    assert sorted(suspects) == sorted(run_id for task, run_id in app.sent if task != "runs.execute")


def test_after_each_flush_there_is_room_again(app: RecordingApp) -> None:
    """A run that comes later wakes a worker as well."""
    app.may_send.set()
    hints = HintPublisher(app)  # type: ignore[arg-type]  # it has what is used
    last = uuid4()

    for _ in range(50):
        hints.hint(uuid4())
    while len(app.sent) < WAKE_UPS_PER_FLUSH:
        threading.Event().wait(0.01)
    threading.Event().wait(0.05)
    hints.hint(last)
    hints.close()

    assert last in [run_id for _, run_id in app.sent]


def test_a_hint_on_an_idle_system_is_sent_before_the_queue_is_looked_at(app: RecordingApp) -> None:
    """Only the first one waits for a look; and a queue that was full is looked at before anything is sent."""
    app.may_send.set()
    hints = HintPublisher(app)  # type: ignore[arg-type]  # it has what is used

    for run in range(1, 4):
        app.depth = FULL_QUEUE if run == 3 else 0
        hints.hint(uuid4())
        while len(app.sent_before_looks) < 1 + run:
            threading.Event().wait(0.01)
    hints.hint(uuid4())
    hints.close()

    assert [0, 1, 2, 3, 3] == app.sent_before_looks[:5]
    assert 3 == len(app.sent)


def test_a_full_queue_is_not_looked_at_all_the_time(app: RecordingApp) -> None:
    """A hint waits a moment there; it is not dropped, for the queue may be empty by then."""
    app.may_send.set()
    hints = HintPublisher(app)  # type: ignore[arg-type]  # it has what is used
    app.depth = WAKE_UPS_WAITING
    hints.hint(uuid4())
    while not app.sent_before_looks:
        threading.Event().wait(0.001)
    looks = len(app.sent_before_looks)
    last = uuid4()

    hints.hint(last)
    threading.Event().wait(publisher.FULL_REST_S / 2)
    looks_meanwhile = len(app.sent_before_looks) - looks
    app.depth = 0
    threading.Event().wait(publisher.FULL_REST_S)
    hints.close()

    assert looks_meanwhile <= 1
    assert [last] == [run_id for _, run_id in app.sent]


def test_after_a_failure_the_queue_is_looked_at_first(
    app: RecordingApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A look sets aside what is in the queue's way; without one, each hint after it would fail as well."""
    monkeypatch.setattr(outbox, "PAUSE_AFTER_ERROR_S", 0)
    app.may_send.set()
    hints = HintPublisher(app)  # type: ignore[arg-type]  # it has what is used
    hints.hint(uuid4())
    while len(app.sent_before_looks) < 2:
        threading.Event().wait(0.01)
    app.is_failing = True
    hints.hint(uuid4())
    threading.Event().wait(0.3)
    app.is_failing = False

    hints.hint(uuid4())
    hints.close()

    assert [0, 1, 1, 2] == app.sent_before_looks
