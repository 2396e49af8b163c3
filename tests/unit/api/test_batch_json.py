"""Reading a long list in a JSON object piece by piece gives what reading it at once gives."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.api.batch_json import Document, MalformedJsonError, TooManyItemsError, scan_document

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
OBJECTS = st.dictionaries(st.text(), VALUES, max_size=4)


async def scan(text: str, *, max_items: int = 1000, max_value_chars: int = 100_000) -> Document:
    """Scan with limits that are out of the way."""
    return await scan_document(text, "inputs", max_items=max_items, max_value_chars=max_value_chars)


@given(
    members=OBJECTS,
    inputs=st.none() | st.lists(VALUES, max_size=8),
    indent=st.sampled_from([None, 2]),
)
async def test_a_document_is_read_as_json_loads_reads_it(
    members: dict[str, Any], inputs: list[Any] | None, indent: int | None
) -> None:
    """Whatever is in it, wherever the list is, and however it is written."""
    members.pop("inputs", None)
    whole = members if inputs is None else {"inputs": inputs} | members
    text = json.dumps(whole, indent=indent, ensure_ascii=False)

    document = await scan(text)

    spans = document.spans
    assert members == document.members
    assert inputs == (None if spans is None else [json.loads(text[a:b]) for a, b in spans])


@given(text=st.text(alphabet='{}[]:,"inputs01 .-e\\\ntrue'))
async def test_what_is_no_object_is_refused(text: str) -> None:
    """Exactly where json.loads refuses it too."""
    try:
        whole = json.loads(text)
    except ValueError:
        whole = None
    if isinstance(whole, dict):
        assert await scan(text)
        return
    with pytest.raises(MalformedJsonError):
        await scan(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{",
        '{"a"}',
        '{"a": 1,}',
        '{"a": 1} 2',
        '{"inputs": [1,]}',
        '{"inputs": [1 2]}',
        '{"inputs": [',
        "{1: 2}",
        '{"a": ' + "[" * 10_000,
        '{"a": ' + "9" * 10_000 + "}",
    ],
)
async def test_each_kind_of_nonsense_is_refused(text: str) -> None:
    """Never another error."""
    with pytest.raises(MalformedJsonError):
        await scan(text)


@pytest.mark.parametrize("size", [4094, 4095, 4096, 4097, 40_000])
async def test_a_value_may_be_longer_than_a_window(size: int) -> None:
    """A number that ends where a window ends is not cut in two, nor is a text."""
    text = (
        '{"inputs": [' + " " * (size % 7) + "1." + "5" * size + ', "' + "x" * size + '"], "a": 1}'
    )

    document = await scan(text)

    assert document.spans is not None
    assert [float("1." + "5" * size), "x" * size] == [
        json.loads(text[a:b]) for a, b in document.spans
    ]
    assert document.members == {"a": 1}


async def test_a_list_or_a_value_that_is_too_long_is_refused() -> None:
    """Nobody has to read to its end."""
    with pytest.raises(TooManyItemsError):
        await scan('{"inputs": [1, 2, 3]}', max_items=2)
    assert (await scan('{"inputs": [1, 2]}', max_items=2)).spans is not None
    with pytest.raises(MalformedJsonError):
        await scan('{"inputs": ["' + "x" * 100 + '"]}', max_value_chars=50)
