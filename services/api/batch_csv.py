"""Rows from CSV: each column is a field of the input, a cell is text made what the input's schema says."""

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from services.api.batch_rows import (
    MAX_ROW_BYTES,
    MAX_ROWS,
    ReadRow,
    Rows,
    UnreadableRow,
    too_many_rows,
)
from services.api.errors import InvalidRequestError
from services.api.input_fields import Convert, InputFields, UnconvertibleError
from services.api.json_pointers import parse_field
from services.api.validation import FieldError, pointer_to

Path = tuple[str, ...]
MAX_COLUMNS: Final = 1000


@dataclass(frozen=True, slots=True)
class _Column:
    """A column that is used: where it is, and which field it fills."""

    index: int
    path: Path
    convert: Convert


def read_csv(body: bytes, mapping: Sequence[str], fields: InputFields) -> Rows:
    """An input per row after the header.

    Args:
        body: UTF-8, with or without a byte order mark.
        mapping: `field=column` for each column that is to be used; empty if the header names fields itself.
        fields: What fields the input has.

    Raises:
        InvalidRequestError: The header or the mapping does not fit, or it is not CSV in UTF-8, or has too many rows.
    """
    lines = _Lines(body)
    reader = csv.reader(lines, strict=True)
    header = _read_header(reader)
    columns = _mapped(mapping, header, fields) if mapping else _named(header, fields)
    return _read_rows(reader, lines, columns, width=len(header))


class _Lines:
    """The lines of a text; refuses records without an end."""

    def __init__(self, body: bytes) -> None:
        self._text = io.TextIOWrapper(io.BytesIO(body), encoding="utf-8-sig", newline="")
        self._record_chars = 0

    def begin_record(self) -> None:
        """Count from here."""
        self._record_chars = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        try:
            line = self._text.readline(MAX_ROW_BYTES + 1)
        except UnicodeDecodeError as error:
            raise _wrong_body("The body is not UTF-8") from error
        self._record_chars += len(line)
        if self._record_chars > MAX_ROW_BYTES:
            raise _wrong_body(f"A row may have {MAX_ROW_BYTES:,} characters")
        if not line:
            raise StopIteration
        return line


def _wrong_body(message: str) -> InvalidRequestError:
    return InvalidRequestError([FieldError("body", "", message)])


def _read_header(reader: Iterator[list[str]]) -> list[str]:
    try:
        header = [name.strip() for name in next(reader, [])]
    except csv.Error as error:
        raise _wrong_body(f"The header is not CSV: {error}") from error
    if not any(header):
        raise _wrong_body("The first line must name the columns")
    if len(header) > MAX_COLUMNS:
        raise _wrong_body(f"There may be {MAX_COLUMNS} columns")
    if len(set(header)) < len(header):
        raise _wrong_body("The header has a column twice")
    return header


def _named(header: Sequence[str], fields: InputFields) -> list[_Column]:
    """Columns that are called as their fields."""
    columns, errors = [], []
    for index, name in enumerate(header):
        column = _column(index, name, fields)
        if column is None:
            errors.append(FieldError("body", "", f"Column {index + 1} names no field of the input"))
        else:
            columns.append(column)
    return _checked(columns, errors, place="body", field="")


def _mapped(mapping: Sequence[str], header: Sequence[str], fields: InputFields) -> list[_Column]:
    """Columns that are said to be a field's."""
    columns, errors = [], []
    for number, pair in enumerate(mapping):
        name, _, title = pair.partition("=")
        column = None
        if title.strip() not in header:
            errors.append(FieldError("query", f"/columns/{number}", "There is no such column"))
        elif (column := _column(header.index(title.strip()), name.strip(), fields)) is None:
            errors.append(FieldError("query", f"/columns/{number}", "The input has no such field"))
        else:
            columns.append(column)
    return _checked(columns, errors, place="query", field="/columns")


def _column(index: int, name: str, fields: InputFields) -> _Column | None:
    path = parse_field(name)
    convert = None if path is None else fields.find_converter(path)
    return None if path is None or convert is None else _Column(index, path, convert)


def _checked(
    columns: list[_Column], errors: list[FieldError], *, place: str, field: str
) -> list[_Column]:
    """Refuse columns that are wrong, or that are in each other's way."""
    paths = {column.path for column in columns}
    around = {path[:length] for path in paths for length in range(1, len(path))}
    if len(paths) < len(columns) or paths & around:
        errors.append(FieldError(place, field, "Two columns are for the same field"))
    if errors:
        raise InvalidRequestError(errors)
    return columns


def _read_rows(
    reader: Iterator[list[str]], lines: _Lines, columns: Sequence[_Column], *, width: int
) -> Rows:
    """The rows after the header; empty lines are counted, and passed over."""
    number = 0
    while True:
        number += 1
        lines.begin_record()
        try:
            cells = next(reader, None)
        except csv.Error as error:
            yield UnreadableRow(number, f"The row is not CSV: {error}")
            continue
        if cells is None:
            return
        if number > MAX_ROWS:
            raise too_many_rows()
        if cells:
            yield _read_row(number, cells, columns, width)


def _read_row(
    number: int, cells: Sequence[str], columns: Sequence[_Column], width: int
) -> ReadRow | UnreadableRow:
    """A row's input."""
    if len(cells) != width:
        message = f"The row has {len(cells)} cells, the header {width}"
        return UnreadableRow(number, message)
    given: dict[str, Any] = {}
    for column in columns:
        if cell := cells[column.index]:
            try:
                _put(given, column.path, column.convert(cell))
            except UnconvertibleError as error:
                return UnreadableRow(number, str(error), field=pointer_to(column.path))
    return ReadRow(number, given)


def _put(given: dict[str, Any], path: Path, value: object) -> None:
    """Set a field, and the objects around it."""
    *around, last = path
    for name in around:
        given = given.setdefault(name, {})
    given[last] = value
