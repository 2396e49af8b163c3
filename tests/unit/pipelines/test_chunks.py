"""Long text is cut where it may be, into pieces that fit."""

from hypothesis import given
from hypothesis import strategies as st

from services.pipelines.chunks import split_text


@given(st.text(max_size=400), st.integers(min_value=4, max_value=60))
def test_pieces_fit_and_are_the_text_again(text: str, max_bytes: int) -> None:
    """Nothing is lost, nothing is doubled, and no script gets more room than another."""
    pieces = split_text(text, max_bytes=max_bytes)

    assert "".join(pieces) == text
    assert all(0 < len(piece.encode()) <= max_bytes for piece in pieces)


def test_a_piece_ends_with_a_paragraph_where_it_can() -> None:
    """Then with a line, a sentence, a word; a single endless word is cut where it has to be."""
    assert split_text("first one. x\n\nsecond. third", max_bytes=20) == [
        "first one. x\n\n",
        "second. third",
    ]
    assert split_text("one two. three four", max_bytes=14) == ["one two. ", "three four"]
    assert split_text("x" * 25, max_bytes=10) == ["x" * 10, "x" * 10, "x" * 5]
