"""The client of the benchmarks."""

import asyncio
import time

import pytest

from tests.bench.posting import Posted, _read_answer, _Turns


async def test_an_answer_is_read_to_its_end() -> None:
    """The next answer on the connection begins where this one ends."""
    reader = asyncio.StreamReader()
    reader.feed_data(b"HTTP/1.1 202 Accepted\r\nContent-Length: 2\r\n\r\n{}")
    reader.feed_data(b"HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n")

    assert [202, 503] == [await _read_answer(reader), await _read_answer(reader)]


async def test_turns_end_with_the_time() -> None:
    """A load never goes on for longer than it was asked to."""
    turns = _Turns(0.0, seconds=1.0, per_s=None)

    with pytest.raises(StopAsyncIteration):
        await anext(turns)


async def test_turns_are_no_more_than_the_rate_allows() -> None:
    """Fewer on a machine that is too slow for it."""
    turns = _Turns(time.perf_counter(), seconds=0.045, per_s=100)

    assert len([turn async for turn in turns]) <= 5


def test_a_rate_counts_what_was_accepted() -> None:
    """Refused ones are told apart."""
    assert 1.5 == Posted(took_s=2.0, latencies_s=[0.1] * 3, refused={503: 7}).per_s
