"""The text of a step's calls on its way to those who watch."""

import asyncio

import pytest

from services.core.errors import LeaseLostError, StoreUnavailableError
from services.worker.step_claude import TextStream


class Recorder:
    """Takes text, unless told otherwise, on a clock that tests set."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.now_s = 100.0
        self.error: Exception | None = None

    async def record(self, text: str) -> None:
        if self.error is not None:
            raise self.error
        self.texts.append(text)

    def stream(self) -> TextStream:
        return TextStream(self.record, now_s=lambda: self.now_s)


async def test_text_is_gathered_into_pieces_of_150_ms() -> None:
    """The first piece is shown at once, then at most one event per interval."""
    recorder = Recorder()
    stream = recorder.stream()

    for number in range(6):
        await stream.add(str(number))
        recorder.now_s += 0.1
    await stream.flush()

    assert ["0", "12", "34", "5"] == recorder.texts


async def test_no_text_is_recorded_twice_or_empty() -> None:
    """Flushing without new text writes nothing."""
    recorder = Recorder()
    stream = recorder.stream()

    await stream.add("a")
    await stream.flush()
    await stream.flush()

    assert ["a"] == recorder.texts


async def test_text_outlives_an_outage_of_the_record() -> None:
    """While PostgreSQL is away Claude's stream goes on, and its text is written later."""
    recorder = Recorder()
    stream = recorder.stream()
    recorder.error = StoreUnavailableError()

    await stream.add("a")
    recorder.now_s += 1
    await stream.add("b")
    with pytest.raises(StoreUnavailableError):
        await stream.flush()
    recorder.error = None
    await stream.flush()

    assert ["ab"] == recorder.texts


async def test_calls_at_once_lose_no_text() -> None:
    """A step may ask several times at once: what comes while a piece is being written comes later, once."""
    recorder = Recorder()

    async def record_slowly(text: str) -> None:
        await asyncio.sleep(0)
        recorder.now_s += 1
        await recorder.record(text)

    stream = TextStream(record_slowly, now_s=lambda: recorder.now_s)

    async def call(name: str) -> None:
        for _ in range(10):
            await stream.add(name)

    await asyncio.gather(*(call(name) for name in "abc"))
    await stream.flush()

    assert "a" * 10 + "b" * 10 + "c" * 10 == "".join(sorted("".join(recorder.texts)))


async def test_a_lost_lease_ends_the_stream() -> None:
    """Text for a run that another worker has taken cuts the call off."""
    recorder = Recorder()
    recorder.error = LeaseLostError()

    with pytest.raises(LeaseLostError):
        await recorder.stream().add("a")
