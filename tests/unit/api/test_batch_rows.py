"""Rows of a batch: NDJSON is read, rows are held to the pipeline's input, and others are served meanwhile."""

import asyncio
import json
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.api.batch_rows import (
    CHUNK_ROWS,
    MAX_ROW_BYTES,
    MAX_ROW_ERRORS,
    MAX_ROWS,
    ReadRow,
    UnreadableRow,
    make_chunks,
    read_ndjson,
)
from services.api.errors import InvalidRequestError
from services.core.runs.batch_models import BatchChunk
from tests.unit.api.conftest import LetterInput
from tests.unit.api.test_batch_json import VALUES

Row = ReadRow | UnreadableRow


async def chunks_of(rows: Iterable[Row]) -> list[BatchChunk]:
    """The chunks that rows make."""
    return [chunk async for chunk in make_chunks(iter(rows), LetterInput)]


def read(count: int, **changes: Any) -> list[Row]:
    """Good rows."""
    return [ReadRow(number, {"name": f"n{number}"} | changes) for number in range(1, count + 1)]


@given(
    values=st.lists(VALUES, max_size=20),
    newline=st.sampled_from(["\n", "\r\n"]),
    mark=st.booleans(),
)
def test_what_is_written_as_ndjson_is_read_as_it_was(
    values: list[Any], newline: str, *, mark: bool
) -> None:
    """Whatever the values, the line ends, and with a byte order mark or without."""
    text = "".join(json.dumps(value, ensure_ascii=False) + newline for value in values)
    body = text.encode("utf-8-sig" if mark and text else "utf-8")

    assert [ReadRow(number, value) for number, value in enumerate(values, 1)] == list(
        read_ndjson(body)
    )


def test_lines_are_numbered_as_they_were_sent() -> None:
    """An empty line is no row, but it is a line; a line that is no JSON is one bad row."""
    rows = list(read_ndjson(b'{"a": 1}\n\n  \n{\n"\xff"\n' + b"[" * 3000 + b'\n{"b": 2}'))

    assert [row.number for row in rows] == [1, 4, 5, 6, 7]
    assert [isinstance(row, ReadRow) for row in rows] == [True, False, False, False, True]


def test_a_line_that_is_too_long_is_a_bad_row() -> None:
    """The others are none the worse for it."""
    long, short = list(read_ndjson(b'"' + b"x" * MAX_ROW_BYTES + b'"\n{}'))

    assert isinstance(long, UnreadableRow)
    assert short == ReadRow(2, {})


def test_too_many_lines_are_refused_whole() -> None:
    """Empty ones too: to pass over millions of them would take long."""
    assert len(list(read_ndjson(b"{}\n" * MAX_ROWS))) == MAX_ROWS
    for body in (b"{}\n" * (MAX_ROWS + 1), b"\n" * (MAX_ROWS + 1)):
        with pytest.raises(InvalidRequestError):
            list(read_ndjson(body))


async def test_good_rows_and_bad_ones_are_told_apart() -> None:
    """A pointer leads into the input, and a message repeats nothing of it."""
    [chunk] = await chunks_of(
        [
            ReadRow(1, {"name": "a"}),
            ReadRow(2, {"name": "b", "lines": [1]}),
            UnreadableRow(3, "Nonsense"),
            ReadRow(4, ["a"]),
            ReadRow(5, {"name": "\x00"}),
            ReadRow(6, {"name": "", "x/y": 1}),
            ReadRow(7, {"name": "c", "options": {"a": 1}}),
        ]
    )

    assert [(1, {"name": "a"}), (7, {"name": "c", "options": {"a": 1}})] == [
        (row.row, json.loads(row.input)) for row in chunk.rows
    ]
    assert [
        (2, 1, "/lines/0"),
        (3, 1, ""),
        (4, 1, ""),
        (5, 1, ""),
        (6, 1, "/name"),
        (6, 2, "/x~1y"),
    ] == [(error.row, error.number, error.field) for error in chunk.errors]
    assert "Nonsense" in {error.message for error in chunk.errors}


async def test_a_row_has_a_bounded_number_of_errors() -> None:
    """A small row cannot fill the record."""
    [chunk] = await chunks_of([*read(1), ReadRow(2, {"name": "a", "lines": [1] * 100})])

    assert len(chunk.errors) == MAX_ROW_ERRORS


async def test_rows_come_in_chunks() -> None:
    """None is lost between two."""
    chunks = await chunks_of(read(2 * CHUNK_ROWS + 1))

    assert [CHUNK_ROWS, CHUNK_ROWS, 1] == [len(chunk.rows) for chunk in chunks]
    assert [row.row for chunk in chunks for row in chunk.rows] == list(range(1, 2 * CHUNK_ROWS + 2))


async def test_long_rows_come_in_smaller_chunks() -> None:
    """No statement carries more than some megabytes."""
    chunks = await chunks_of(read(10, lines=["x" * 1_000_000]))

    assert max(len(chunk.rows) for chunk in chunks) <= 4
    assert sum(len(chunk.rows) for chunk in chunks) == 10


@pytest.mark.parametrize(
    "rows", [[], [UnreadableRow(1, "Nonsense")], [ReadRow(n, {}) for n in range(1, 3000)]]
)
async def test_a_batch_without_a_good_row_is_refused(rows: list[Row]) -> None:
    """With what is wrong, by row."""
    with pytest.raises(InvalidRequestError) as refused:
        await chunks_of(rows)

    shown = [error.row for error in refused.value.errors]
    assert shown[:50] == ([row.number for row in rows][:50] or [None])


async def test_nobody_waits_while_ten_thousand_rows_are_checked() -> None:
    """The loop turns all the while, however long it takes."""
    turns, is_over = 0, asyncio.Event()

    async def turn() -> None:
        nonlocal turns
        while not is_over.is_set():
            await asyncio.sleep(0)
            turns += 1

    turning = asyncio.create_task(turn())
    chunks = await chunks_of(read(MAX_ROWS, lines=["x" * 50] * 10))
    is_over.set()
    await turning

    assert sum(len(chunk.rows) for chunk in chunks) == MAX_ROWS
    assert turns > 5
