"""Putting texts together from pieces that overlap, repeat or are missing."""

import asyncio
from uuid import uuid4

import pytest

from services.api import run_texts
from services.api.run_texts import RunTexts, TextBoard, Try
from services.core.live_text.wire import Piece


def piece(text: str, offset: int = 0, *, call: int = 0, fence: int = 1, attempt: int = 1) -> Piece:
    """A piece of a call of the step `write`."""
    return Piece(fence=fence, attempt=attempt, call=call, step="write", offset=offset, text=text)


def text_of(texts: RunTexts, *, call: int = 0, fence: int = 1, attempt: int = 1) -> str | None:
    """What is known of a call."""
    return texts.texts_of(Try(fence, "write", attempt)).get(call)


@pytest.mark.parametrize(
    "pieces",
    [
        [piece("Dear "), piece("Ada", 5)],
        [piece("Dear "), piece("Dear "), piece("Ada", 5), piece("ar Ad", 2)],
        [piece("De"), piece("Dear Ada"), piece("ar", 2)],
        [piece("Ada", 5), piece("Dear "), piece("Ada", 5)],
        [piece("Dear "), piece("", 2), piece("r Ada", 3)],
    ],
)
def test_pieces_make_the_text(pieces: list[Piece]) -> None:
    """In whatever way they overlap; what is repeated changes nothing."""
    texts = RunTexts()

    for each in pieces:
        texts.take(each)

    assert "Dear Ada" == text_of(texts)


def test_a_gap_is_not_bridged_but_wants_the_text_so_far() -> None:
    """Something was lost: what follows it waits until the whole text was read again."""
    texts = RunTexts()
    texts.is_wanting = False
    texts.take(piece("Dear "))
    was_wanting = texts.is_wanting

    texts.take(piece("!", 8))

    assert (False, True) == (was_wanting, texts.is_wanting)
    assert "Dear " == text_of(texts)


def test_watchers_are_told_of_new_text_only() -> None:
    """Not of what was known."""
    texts = RunTexts()
    told: list[str | None] = []
    texts.watchers.add(lambda: told.append(text_of(texts)))

    for each in (piece("a"), piece("a"), piece("c", 2), piece("b", 1)):
        texts.take(each)

    assert ["a", "ab"] == told


def test_calls_of_one_try_are_apart() -> None:
    """A step may ask several times at once."""
    texts = RunTexts()

    for each in (piece("a"), piece("x", call=7), piece("b", 1), piece("y", 1, call=7)):
        texts.take(each)

    assert {0: "ab", 7: "xy"} == texts.texts_of(Try(1, "write", 1))


def test_only_the_last_tries_are_kept() -> None:
    """A run of many tries that is watched for long takes no more memory than one of four."""
    texts = RunTexts()

    for attempt in range(1, 7):
        texts.take(piece("a", attempt=attempt))

    kept = [text_of(texts, attempt=attempt) for attempt in range(1, 7)]
    assert [None, None, "a", "a", "a", "a"] == kept


def test_the_try_that_speaks_outlives_those_that_were_read_after_it() -> None:
    """Its next piece may come before the texts so far have been read, and with them its own beginning."""
    texts = RunTexts()
    texts.take(piece("live", attempt=4))

    texts.take_all([piece("read", attempt=attempt) for attempt in range(1, 5)])
    texts.take(piece("next", attempt=5))

    kept = [text_of(texts, attempt=attempt) for attempt in range(1, 6)]
    assert [None, "read", "read", "live", "next"] == kept


def test_the_newest_lease_of_a_try_counts() -> None:
    """A run that waited is tried again with the same number; what the old lease said is past."""
    texts = RunTexts()
    texts.take(piece("new", fence=3))
    texts.take(piece("old", fence=2))

    assert 3 == texts.newest_fence("write", 1, least=0)
    assert texts.newest_fence("write", 1, least=4) is None
    assert texts.newest_fence("write", 2, least=0) is None


@pytest.mark.parametrize("odd", [piece("xxxx", 2), piece("x", call=3)])
def test_bounds_are_kept(odd: Piece, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is published: neither a text nor a try grows beyond its bound."""
    monkeypatch.setattr(run_texts, "MAX_CHARACTERS", 4)
    monkeypatch.setattr(run_texts, "MAX_CALLS", 2)
    texts = RunTexts()
    for each in (piece("ab"), piece("y", call=1)):
        texts.take(each)

    texts.take(odd)

    assert {0: "ab", 1: "y"} == texts.texts_of(Try(1, "write", 1))


def test_texts_are_kept_while_somebody_watches() -> None:
    """The last watcher takes them along; a run that nobody watches has none."""
    board, run_id = TextBoard(), uuid4()
    with board.follow(run_id, lambda: None) as first:
        with board.follow(run_id, print) as second:
            board.take(run_id, piece("a"))
            assert first is second
        assert "a" == text_of(first)

    board.take(run_id, piece("b", 1))
    board.want(run_id)

    assert {} == board.runs
    assert "a" == text_of(first)


def test_a_new_try_is_told_once() -> None:
    """So that its beginning is looked up in the record."""
    board, run_id = TextBoard(), uuid4()
    with board.follow(run_id, lambda: None):
        told = []
        for each in (piece("a"), piece("b", 1), piece("c", attempt=2), piece("d", 1, attempt=2)):
            board.has_new_try.clear()
            board.take(run_id, each)
            told.append(board.has_new_try.is_set())

    assert [True, False, True, False] == told


async def test_nobody_waits_for_redis_while_it_is_away() -> None:
    """And not for long if it has just gone."""
    board, run_id = TextBoard(), uuid4()
    loop = asyncio.get_running_loop()
    with board.follow(run_id, lambda: None) as texts:
        started_s = loop.time()
        await board.wait_until_read(texts)
        away_s = loop.time() - started_s
        board.is_up = True
        await board.wait_until_read(texts)
        silent_s = loop.time() - started_s - away_s
        texts.take_all([])
        await board.wait_until_read(texts)

    assert away_s < 0.05
    assert run_texts.READING_S <= silent_s < run_texts.READING_S + 0.2


def test_when_redis_has_been_away_all_is_read_again() -> None:
    """What was published meanwhile is lost, and nothing may follow that would show the gap."""
    board, run_id = TextBoard(), uuid4()
    board.is_up = True
    with board.follow(run_id, lambda: None) as texts:
        texts.is_wanting = False
        board.lose_all()

        assert (False, True) == (board.is_up, texts.is_wanting)
