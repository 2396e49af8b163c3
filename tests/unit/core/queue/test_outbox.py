"""The bounded queue between callers and Redis."""

import logging
import threading
import time

import pytest

from services.core.queue import outbox as module
from services.core.queue.outbox import Outbox


class Sink:
    """Takes batches, fails or blocks as told."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.error: Exception | None = None
        self.may_go_on = threading.Event()
        self.may_go_on.set()
        self.is_busy = threading.Event()

    def send(self, batch: list[int]) -> None:
        self.is_busy.set()
        self.may_go_on.wait(5)
        if self.error is not None:
            raise self.error
        self.batches.append(batch)


@pytest.fixture
def sink(monkeypatch: pytest.MonkeyPatch) -> Sink:
    """A sink that takes everything; outages end quickly."""
    monkeypatch.setattr(module, "PAUSE_AFTER_ERROR_S", 0.01)
    return Sink()


def _wait_for(condition) -> None:
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_what_waits_goes_in_one_batch(sink: Sink) -> None:
    """While one batch is on its way, the next one gathers."""
    outbox: Outbox[int] = Outbox("test", sink.send)
    sink.may_go_on.clear()

    outbox.put(1)
    sink.is_busy.wait(5)
    for item in range(2, 100):
        outbox.put(item)
    sink.may_go_on.set()
    outbox.close(timeout_s=5)

    assert [[1], list(range(2, 100))] == sink.batches


def test_what_follows_soon_gathers(sink: Sink) -> None:
    """Under load batches are large and few; what comes alone never waits, and closing sends at once."""

    def send_slowly(batch: list[int]) -> None:
        time.sleep(0.05)
        sink.send(batch)

    outbox: Outbox[int] = Outbox("test", send_slowly, busy_share=0.1)

    outbox.put(1)
    _wait_for(lambda: sink.batches == [[1]])
    for item in range(2, 100):
        outbox.put(item)
    outbox.close(timeout_s=5)

    assert [[1], list(range(2, 100))] == sink.batches


def test_whoever_sends_may_ask_for_rest(sink: Sink) -> None:
    """What nobody misses gathers meanwhile."""

    def send(batch: list[int]) -> float:
        sink.send(batch)
        return 5.0

    outbox: Outbox[int] = Outbox("test", send)

    outbox.put(1)
    _wait_for(lambda: sink.batches == [[1]])
    for item in range(2, 100):
        outbox.put(item)
        time.sleep(0.001)
    outbox.close(timeout_s=5)

    assert [[1], list(range(2, 100))] == sink.batches


def test_a_full_outbox_refuses_and_never_blocks(sink: Sink) -> None:
    """Memory is bounded: what exceeds the capacity is told, not kept."""
    outbox: Outbox[int] = Outbox("test", sink.send, capacity=3)
    sink.may_go_on.clear()
    outbox.put(0)
    sink.is_busy.wait(5)

    taken = [outbox.put(item) for item in range(5)]
    sink.may_go_on.set()
    outbox.close(timeout_s=5)

    assert [True, True, True, False, False] == taken
    assert [[0], [0, 1, 2]] == sink.batches


def test_an_outage_is_logged_once_and_heals(sink: Sink, caplog: pytest.LogCaptureFixture) -> None:
    """A failed batch is dropped, the thread lives on, and the log has two lines per outage."""
    caplog.set_level(logging.INFO)
    outbox: Outbox[int] = Outbox("test", sink.send)
    sink.error = AttributeError("drivers raise anything")
    for item in range(3):
        sink.is_busy.clear()
        outbox.put(item)
        sink.is_busy.wait(5)

    _wait_for(lambda: "nothing goes through" in caplog.text)
    sink.error = None
    outbox.put(9)
    outbox.close(timeout_s=5)

    assert [9] == sink.batches[-1]
    _wait_for(lambda: "go through again" in caplog.text)
    assert 1 == caplog.text.count("nothing goes through")


def test_closing_sends_what_waits(sink: Sink) -> None:
    """A process that stops tells what it still has to tell."""
    outbox: Outbox[int] = Outbox("test", sink.send)
    outbox.put(1)

    outbox.close(timeout_s=5)

    assert [[1]] == sink.batches
    assert not outbox.put(2)


def test_closing_is_bounded(sink: Sink) -> None:
    """A sink that hangs does not keep the process."""
    outbox: Outbox[int] = Outbox("test", sink.send)
    sink.may_go_on.clear()
    outbox.put(1)

    started_s = time.monotonic()
    outbox.close(timeout_s=0.05)
    took_s = time.monotonic() - started_s
    sink.may_go_on.set()

    assert took_s < 2
