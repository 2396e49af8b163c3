"""Work that goes on beside requests."""

import asyncio
import logging

import pytest

from services.api import background
from services.api.background import in_background


async def until(count: int, turns: list[int]) -> None:
    """Wait for so many turns."""
    async with asyncio.timeout(5):
        while len(turns) < count:
            await asyncio.sleep(0.001)


async def test_an_outage_is_told_when_it_begins_and_ends(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Once each, however long it lasts, and the work goes on."""
    caplog.set_level(logging.INFO, logger="services.api")
    monkeypatch.setattr(background, "PAUSE_AFTER_ERROR_S", 0.001)
    turns: list[int] = []

    async def turn() -> float:
        turns.append(1)
        if 2 <= len(turns) <= 20:
            raise OSError("away")
        return 0.001

    async with in_background(("Sweeping", turn)):
        await until(30, turns)

    lines = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert lines == [("WARNING", "Sweeping fails: away"), ("INFO", "Sweeping works again")]


async def test_another_kind_of_failure_is_told_too(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A bug must not hide behind an outage."""
    monkeypatch.setattr(background, "PAUSE_AFTER_ERROR_S", 0.001)
    turns: list[int] = []

    async def turn() -> float:
        turns.append(1)
        raise OSError("away") if len(turns) < 5 else KeyError("bug")

    async with in_background(("Sweeping", turn)):
        await until(10, turns)

    assert ["OSError", "KeyError"] == [
        record.exc_info[0].__name__ for record in caplog.records if record.exc_info
    ]


async def test_nothing_goes_on_afterwards() -> None:
    """A stopped app leaves no task behind."""
    turns: list[int] = []

    async def turn() -> float:
        turns.append(1)
        return 0.001

    async with in_background(("a", turn), ("b", turn)):
        await until(4, turns)
    count = len(turns)
    await asyncio.sleep(0.02)

    assert count == len(turns)
