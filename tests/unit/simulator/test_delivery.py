"""services.simulator.delivery: pieces of a stream that say when they left."""

import json
import re

import pytest

from services.core.clock import utc_now
from services.simulator.delivery import split_text, stamp_piece

STAMP = re.compile(r"\[(\d+\.\d{6})\] ")
ANSWER = json.dumps(
    {"summary": "The harbour freezes in January.", "count": 12, "tags": ["sea ice"], "x": None}
)


def test_a_piece_of_plain_text_begins_with_the_moment():
    """Of sending."""
    before = utc_now().timestamp()

    stamped = stamp_piece("The harbour", is_structured=False)

    match = STAMP.match(stamped)
    assert match is not None
    assert before - 0.001 <= float(match[1]) <= utc_now().timestamp() + 0.001
    assert STAMP.sub("", stamped) == "The harbour"


@pytest.mark.parametrize("pieces", range(1, len(ANSWER)))
def test_stamps_leave_json_valid(pieces):
    """They stand within strings only, and are all that is added."""
    stamped = "".join(
        stamp_piece(piece, is_structured=True) for piece in split_text(ANSWER, pieces)
    )

    assert json.loads(ANSWER) == json.loads(STAMP.sub("", stamped))
    assert json.loads(stamped)["count"] == 12
    if pieces < 4:
        assert STAMP.search(stamped)
