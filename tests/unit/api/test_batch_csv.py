"""CSV: what is written is read as it was; cells become what the input's schema says; each mistake is pointed at."""

import csv
import io
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field

from services.api.batch_csv import read_csv
from services.api.batch_rows import MAX_ROW_BYTES, MAX_ROWS, ReadRow, UnreadableRow
from services.api.errors import InvalidRequestError
from services.api.input_fields import InputFields
from services.pipelines.registry import PIPELINES

CELLS = st.text(st.characters(exclude_categories=("Cs",)), min_size=1)


class Place(BaseModel):
    """Something nested."""

    model_config = ConfigDict(extra="forbid")

    city: str
    floor: int | None = None


class Order(BaseModel):
    """An input with each type that a cell may become."""

    model_config = ConfigDict(extra="forbid")

    name: str
    age: int = 0
    price: float = 0
    is_new: bool = False
    tags: list[str] = []
    size: Literal["s", "m"] = "s"
    level: Literal[1, 2] = 1
    extra: dict[str, int] = {}
    where: Place | None = None
    sender: Place | str | None = None
    note: Annotated[str | None, Field(alias="the note")] = None


FIELDS = InputFields(Order.model_json_schema())


def read(text: str | bytes, *columns: str) -> list[ReadRow | UnreadableRow]:
    """The rows of a text."""
    body = text.encode() if isinstance(text, str) else text
    return list(read_csv(body, columns, FIELDS))


def errors_of(text: str | bytes, *columns: str) -> list[tuple[str, str]]:
    """Where a text is wrong as a whole."""
    with pytest.raises(InvalidRequestError) as refused:
        read(text, *columns)
    return [(error.location, error.field) for error in refused.value.errors]


def written(rows: Sequence[Sequence[str]], **options: Any) -> str:
    """Rows as CSV."""
    text = io.StringIO(newline="")
    csv.writer(text, **options).writerows(rows)
    return text.getvalue()


@given(
    rows=st.lists(st.tuples(CELLS, CELLS), max_size=10),
    mark=st.booleans(),
    # Python 3.11 quotes a carriage return only where lines end with one.
    style=st.sampled_from([(csv.QUOTE_MINIMAL, "\r\n"), (csv.QUOTE_ALL, "\n")]),
)
def test_what_is_written_as_csv_is_read_as_it_was(
    rows: list[tuple[str, str]], style: tuple[int, str], *, mark: bool
) -> None:
    """Quotes, commas, line ends, any character: cells that are text stay as they are."""
    text = written([("name", "where.city"), *rows], quoting=style[0], lineterminator=style[1])

    found = read(text.encode("utf-8-sig" if mark else "utf-8"))

    expected = [
        ReadRow(number, {"name": name, "where": {"city": city}})
        for number, (name, city) in enumerate(rows, 1)
    ]
    assert expected == found


@pytest.mark.parametrize(
    ("field", "cell", "value"),
    [
        ("name", "42", "42"),
        ("name", " a ", " a "),
        ("age", "42", 42),
        ("age", "-1", -1),
        ("price", "4.5", 4.5),
        ("price", "4", 4),
        ("is_new", "true", True),
        ("is_new", "FALSE", False),
        ("tags", '["a","b"]', ["a", "b"]),
        ("extra", '{"a":1}', {"a": 1}),
        ("size", "m", "m"),
        ("level", "2", 2),
        ("where", '{"city":"Bern"}', {"city": "Bern"}),
        ("sender", "Sam", "Sam"),
        ("the note", "x", "x"),
        ("/the note", "x", "x"),
    ],
)
def test_a_cell_becomes_what_the_schema_says(field: str, cell: str, value: object) -> None:
    """Text stays text where text is allowed."""
    [row] = read(written([(field,), (cell,)]))

    assert row == ReadRow(1, {field.removeprefix("/"): value})


@pytest.mark.parametrize(
    ("field", "cell"),
    [
        ("age", "4.5"),
        ("age", "x"),
        ("age", "9" * 5000),
        ("price", "1,5"),
        ("is_new", "1"),
        ("is_new", "yes"),
        ("tags", "a"),
        ("tags", '{"a":1}'),
        ("tags", "[" * 5000),
        ("where.floor", "first"),
    ],
)
def test_a_cell_that_does_not_fit_is_pointed_at(field: str, cell: str) -> None:
    """The row is bad, the others are not."""
    bad, good = read(written([("name", field), ("a", cell), ("b", "")]))

    assert isinstance(bad, UnreadableRow)
    assert (bad.number, bad.field) == (1, "/" + field.replace(".", "/"))
    assert bad.message.startswith("Should be ")
    assert good == ReadRow(2, {"name": "b"})


def test_an_empty_cell_is_absent() -> None:
    """So the field's default counts; an object of empty cells only is not there either."""
    assert [ReadRow(1, {"name": "a"}), ReadRow(2, {"where": {"floor": 2}})] == read(
        "name,age,where.city,where.floor\r\na,,,\r\n,,,2\r\n"
    )


def test_columns_may_be_called_otherwise() -> None:
    """With a mapping only what it names is used, wherever the columns are."""
    text = "Full name,City,Price = €,Other\r\nAda,Bern,4,x\r\n"

    found = read(text, "where.city=City", "/name=Full name", "price=Price = €")

    assert [ReadRow(1, {"where": {"city": "Bern"}, "name": "Ada", "price": 4})] == found


@pytest.mark.parametrize(
    ("text", "columns", "places"),
    [
        ("", (), [("body", "")]),
        ("\r\n", (), [("body", "")]),
        ('"name', (), [("body", "")]),
        ("name,nmae,where.town", (), [("body", ""), ("body", "")]),
        ("name,name", (), [("body", "")]),
        ("name,/name", (), [("body", "")]),
        ("where,where.city", (), [("body", "")]),
        ("where..city", (), [("body", "")]),
        ("name.x", (), [("body", "")]),
        (b"name\r\n\xff\r\n", (), [("body", "")]),
        (b"\xff\xfen\x00", (), [("body", "")]),
        ("name\r\n" + "x\r\n" * (MAX_ROWS + 1), (), [("body", "")]),
        ("name\r\n" + "\r\n" * (MAX_ROWS + 1), (), [("body", "")]),
        ("name\r\n" + "x" * (MAX_ROW_BYTES + 1), (), [("body", "")]),
        ("name\r\n" + '"a\n",' * (MAX_ROW_BYTES // 4), (), [("body", "")]),
        (",".join(f"c{n}" for n in range(1001)), (), [("body", "")]),
        ("A,B", ("name=C", "age=B", "nmae=A"), [("query", "/columns/0"), ("query", "/columns/2")]),
        ("A,B", ("name",), [("query", "/columns/0")]),
        ("A,B", ("name=A", "/name=B"), [("query", "/columns")]),
    ],
)
def test_what_is_wrong_with_the_whole_is_pointed_at(
    text: str | bytes, columns: tuple[str, ...], places: list[tuple[str, str]]
) -> None:
    """A header or a mapping that does not fit spoils every row."""
    assert places == errors_of(text, *columns)


def test_rows_are_numbered_after_the_header() -> None:
    """An empty line is no row, but it is a line; a row that is no CSV, or of another width, is one bad row."""
    found = read('name,age\r\na,1\r\n\r\n"b"x,2\r\nc\r\nd,3,4\r\ne,5\r\n"f')

    assert [(1, True), (3, False), (4, False), (5, False), (6, True), (7, False)] == [
        (row.number, isinstance(row, ReadRow)) for row in found
    ]


def test_as_many_rows_as_allowed_are_read() -> None:
    """The limit itself is allowed, and the last line may end or not."""
    assert len(read("name\r\n" + "x\r\n" * MAX_ROWS)) == MAX_ROWS
    assert len(read("name\r\n" + "x\r\n" * (MAX_ROWS - 1) + "x")) == MAX_ROWS


@pytest.mark.parametrize(
    ("pipeline", "field", "cell", "value"),
    [
        ("outreach_email", "recipient.name", "Ada", "Ada"),
        ("outreach_email", "sources", '["https://example.org"]', ["https://example.org"]),
        ("outreach_email", "sender", "Sam", "Sam"),
        ("outreach_email", "sender.affiliation", "Northfield", "Northfield"),
        ("extract_records", "schema", '{"type":"object"}', {"type": "object"}),
        ("summarize_documents", "documents", "[]", []),
    ],
)
def test_the_pipelines_inputs_can_be_filled(
    pipeline: str, field: str, cell: str, value: object
) -> None:
    """Their schemas have references, alternatives and aliases."""
    schema = PIPELINES[pipeline].input_type.model_json_schema()
    [row] = list(read_csv(written([(field,), (cell,)]).encode(), (), InputFields(schema)))

    assert isinstance(row, ReadRow)
    found: Any = row.value
    for name in field.split("."):
        found = found[name]
    assert value == found


def test_a_schema_that_refers_to_itself_does_no_harm() -> None:
    """References are followed once."""
    schema: dict[str, Any] = {
        "$defs": {"a": {"anyOf": [{"$ref": "#/$defs/a"}, {"type": "integer"}]}},
        "properties": {"x": {"$ref": "#/$defs/a"}},
        "type": "object",
        "additionalProperties": False,
    }
    convert = InputFields(schema).find_converter(("x",))

    assert convert is not None
    assert convert("5") == 5
    assert InputFields(schema).find_converter(("y",)) is None
    assert InputFields({}).find_converter(("y", "z")) is not None
