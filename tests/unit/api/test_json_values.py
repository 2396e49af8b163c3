"""What of JSON the record can keep."""

import math
from typing import Any

import pytest
from pydantic_core import PydanticCustomError

from services.api.json_values import MAX_DEPTH, check_storable


def nested(containers: int, innermost: Any) -> dict[str, Any]:
    """A value in so many containers."""
    value = innermost
    for _ in range(containers - 1):
        value = [value]
    return {"a": value}


@pytest.mark.parametrize(
    "value",
    [
        nested(MAX_DEPTH - 1, 1),
        nested(MAX_DEPTH - 1, []),
        {"many": [[]] * 100, "text": "NaN Infinity \\u0000 {{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{"},
        {"big": 10**400},
    ],
)
def test_what_can_be_kept_is_kept(value: dict[str, Any]) -> None:
    """Also what only looks like trouble."""
    assert value is check_storable(value)


@pytest.mark.parametrize(
    ("value", "code"),
    [
        (nested(MAX_DEPTH, 1), "too_deep"),
        (nested(MAX_DEPTH, []), "too_deep"),
        (nested(50_000, 1), "too_deep"),
        ({"a": ["\0"]}, "not_storable"),
        ({"\0": 1}, "not_storable"),
        ({"a": {"b": "\ud800"}}, "not_storable"),
        ({"a": [math.nan]}, "not_storable"),
        ({"a": -math.inf}, "not_storable"),
    ],
)
def test_what_cannot_be_kept_is_refused(value: dict[str, Any], code: str) -> None:
    """Whichever way it is looked at."""
    with pytest.raises(PydanticCustomError) as error:
        check_storable(value)

    assert error.value.type == code
