"""JSON and cursors survive what comes from outside."""

import json
import math
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from uuid_utils.compat import uuid7

from services.core.runs.encoding import (
    MalformedCursorError,
    _encode_carefully,
    decode_id_cursor,
    decode_time_cursor,
    encode_cursor,
    encode_json,
    encode_storable,
    storable_text,
)

ANY_TEXT = st.text(st.characters())  # NUL and lone surrogates too


@given(ANY_TEXT)
@example("\0\0")
@example("\\u0000")
@example("\\\0")
@example("\ud800")
def test_encoded_text_is_what_jsonb_takes_and_otherwise_the_same(text: str) -> None:
    """Only NUL and lone surrogates change; text that merely looks like an escape does not."""
    decoded = json.loads(encode_json({"text": text}))

    assert {"text": storable_text(text)} == decoded
    assert "\0" not in decoded["text"]
    decoded["text"].encode("utf-8")


ANY_JSON = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(allow_nan=False, allow_infinity=False),
        ANY_TEXT,
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(ANY_TEXT, inner, max_size=3)
    ),
    max_leaves=8,
)


@given(ANY_JSON)
@example([10**40, -0.0, 1e22, 5e-324, "NaN", "Infinity"])
@example({"\ud800": ["\0"]})
@example([uuid7(), Decimal("0.10"), b"\x01\xff"])
def test_the_quick_encoding_is_the_careful_one(value: Any) -> None:
    """Byte for byte in what it means; it leaves out what it is not sure of."""
    quick = encode_storable(value)
    careful = json.loads(_encode_carefully(value))

    assert careful == json.loads(encode_json(value))
    assert quick is None or careful == json.loads(quick)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_that_json_lacks_are_refused(value: float) -> None:
    """A NaN fails its own caller, before it can fail a batch."""
    with pytest.raises(ValueError, match="JSON"):
        encode_json({"deep": [value]})


def test_other_objects_are_refused() -> None:
    """What is not JSON is not guessed at."""
    with pytest.raises(TypeError, match="object is not JSON"):
        encode_json({"what": object()})


def test_cursors_come_back() -> None:
    """A cursor gives the place that it was made from."""
    id_, at = uuid7(), datetime(2026, 11, 23, 12, 30, 0, 123456, tzinfo=UTC)

    assert id_ == decode_id_cursor(encode_cursor(id=id_))
    assert (at, id_) == decode_time_cursor(encode_cursor(id=id_, at=at))


@given(st.one_of(ANY_TEXT, st.text("abcXYZ012-_=", max_size=60)))
@example(encode_cursor(id=uuid7()) + "x")
@example("MjAyNi0xMS0yM1QxMjowMDowMCAwMTkz")
def test_a_malformed_cursor_is_a_value_error(cursor: str) -> None:
    """Whatever a client makes up, it gets a clean refusal."""
    decoders: tuple[Any, ...] = (decode_id_cursor, decode_time_cursor)
    for decode in decoders:
        with pytest.raises(MalformedCursorError):
            decode(cursor)
