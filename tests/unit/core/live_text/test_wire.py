"""How texts are named in Redis."""

from uuid import UUID

import pytest

from services.core.live_text.wire import CallName, Piece, channel_of, key_of

NAME = CallName(fence=12, attempt=3, call=0, step="odd.step")
RUN_ID = UUID("0193588b-2f6b-7d3c-8d2f-4b8f0a1c2d3e")


def test_a_name_is_read_as_it_was_written() -> None:
    """Whatever the step is called."""
    assert NAME == CallName.parse(str(NAME))


@pytest.mark.parametrize("text", ["", "1.2.3", "a.b.c.d", "1..2.x"])
def test_what_is_no_name_is_an_error(text: str) -> None:
    """A stranger's entry in the list of a run."""
    with pytest.raises(ValueError, match=r".+"):
        CallName.parse(text)


def test_databases_share_no_channel() -> None:
    """Redis delivers what is published to all databases, so the number is in the name."""
    assert channel_of(0, RUN_ID) != channel_of(1, RUN_ID)
    assert f"penstock.2.texts.{RUN_ID}.12.3.0.odd.step" == key_of(channel_of(2, RUN_ID), NAME)


def test_a_piece_is_read_as_it_was_published() -> None:
    """With the name of its call."""
    piece = Piece(**NAME._asdict(), offset=7, text="é🌊")

    assert piece == Piece.model_validate_json(piece.model_dump_json())
    assert NAME == piece.name


def test_a_newer_process_may_add_to_a_piece() -> None:
    """During a rolling deploy old and new share the channels."""
    newer = '{"fence":1,"attempt":1,"call":0,"step":"a","offset":0,"text":"x","mood":"new"}'

    assert "x" == Piece.model_validate_json(newer).text


@pytest.mark.parametrize("message", ["", "[]", "{}", '{"fence": "1"}', "\0", "9" * 10_000])
def test_garbage_is_no_piece(message: str) -> None:
    """Whoever reaches Redis can publish."""
    with pytest.raises(ValueError, match="validation error"):
        Piece.model_validate_json(message)
