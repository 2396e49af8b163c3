"""When a batch will be done, and where a page of its errors ended."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from services.core.runs.batches import eta_s
from services.core.runs.encoding import (
    MalformedCursorError,
    decode_place_cursor,
    encode_cursor,
    encode_place_cursor,
)

NOW = datetime(2026, 11, 23, tzinfo=UTC)


@pytest.mark.parametrize(
    ("going_on", "recent", "age_s", "expected"),
    [
        (100, 50, 600, 120.0),
        (100, 50, 30, 60.0),
        (100, 0, 600, None),
        (0, 0, 600, 0.0),
        (0, 50, 600, 0.0),
        (10, 10, 0, 1.0),
    ],
)
def test_the_estimate_goes_by_the_rate_of_the_last_minute(
    going_on: int, recent: int, age_s: float, expected: float | None
) -> None:
    """A batch that is younger has had less time to end runs; without any ended there is no estimate."""
    since = NOW - timedelta(seconds=age_s)

    assert expected == eta_s(going_on, recent=recent, since=since, now=NOW)


def test_a_place_comes_back_from_its_cursor() -> None:
    """And nothing else does."""
    assert (10_000, 10) == decode_place_cursor(encode_place_cursor(10_000, 10))
    for cursor in ("", "AAAA", "nonsense!", encode_cursor(id=UUID(int=1))):
        with pytest.raises(MalformedCursorError):
            decode_place_cursor(cursor)
