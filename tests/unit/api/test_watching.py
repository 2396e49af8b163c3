"""Where texts stand between events, and what a watcher gets of them."""

from typing import Any
from uuid import uuid4

import pytest

from services.api.run_texts import RunTexts
from services.api.watching import Delta, Watching
from services.core.clock import utc_now
from services.core.live_text.wire import Piece
from services.core.runs.models import Event
from services.core.runs.states import EventType

RUN_ID = uuid4()


def event(kind: EventType, **data: Any) -> Event:
    """Something that happened."""
    return Event(RUN_ID, 1, kind, data, utc_now())


def started(step: str = "write", attempt: int = 1) -> Event:
    """A try of a step has begun."""
    return event(EventType.STEP_STARTED, step=step, attempt=attempt)


class Spoken:
    """The texts of a run, as a worker says them, and one who watches."""

    def __init__(self) -> None:
        self.texts = RunTexts()
        self.watching = Watching(self.texts)

    def say(self, whole: str, *, step: str = "write", attempt: int = 1, **changes: int) -> None:
        """Let a call's text be so far."""
        names = {"fence": 1, "attempt": attempt, "call": 0, "offset": 0} | changes
        self.texts.take(Piece(step=step, text=whole, **names))

    def get(self) -> list[tuple[str, int, int, int, str]]:
        """What the watcher gets now."""
        return [
            (delta.step, delta.attempt, delta.call, delta.offset, delta.text)
            for delta in self.watching.deltas()
        ]


@pytest.fixture
def spoken() -> Spoken:
    """Nothing yet."""
    return Spoken()


def test_text_comes_after_the_beginning_of_its_step(spoken: Spoken) -> None:
    """However early it is here."""
    spoken.say("Dear")
    before = spoken.get()
    spoken.watching.note(started())

    assert ([], [("write", 1, 0, 0, "Dear")]) == (before, spoken.get())


def test_a_watcher_gets_the_text_so_far_and_then_what_follows(spoken: Spoken) -> None:
    """Each character once, with its place."""
    spoken.watching.note(started())
    spoken.say("De")
    spoken.say("Dear")
    first = spoken.get()
    nothing = spoken.get()
    spoken.say("Dear Ada")

    assert [("write", 1, 0, 0, "Dear")] == first
    assert [] == nothing
    assert [("write", 1, 0, 4, " Ada")] == spoken.get()


def test_offsets_count_characters(spoken: Spoken) -> None:
    """Not bytes, and not halves of pairs."""
    spoken.watching.note(started())
    spoken.say("é🌊")
    spoken.get()
    spoken.say("é🌊!")

    assert [("write", 1, 0, 2, "!")] == spoken.get()


@pytest.mark.parametrize(
    "end",
    [
        event(EventType.STEP_SUCCEEDED, step="write"),
        event(EventType.STEP_RETRYING, step="write", attempt=1),
        event(EventType.RUN_FAILED),
        event(EventType.RUN_CANCELLED),
        event(EventType.RUN_QUEUED, replay=1),
    ],
)
def test_the_rest_comes_before_the_end_and_nothing_after_it(spoken: Spoken, end: Event) -> None:
    """Whatever ends the try."""
    spoken.watching.note(started())
    spoken.say("Dear")
    passed = list(spoken.watching.pass_on(end))
    spoken.say("Dear Ada")

    assert [Delta("write", 1, 0, 0, "Dear"), end] == passed
    assert [] == spoken.get()


def test_text_of_another_try_is_not_shown(spoken: Spoken) -> None:
    """Neither that of a zombie whose try was given up, nor that of a step that has not begun."""
    spoken.watching.note(started(attempt=2))
    spoken.say("zombie", attempt=1)
    spoken.say("early", step="sign", attempt=1, fence=2)
    nothing = spoken.get()
    spoken.say("Dear", attempt=2, fence=2)

    assert ([], [("write", 2, 0, 0, "Dear")]) == (nothing, spoken.get())


def test_a_run_that_waited_begins_anew_under_the_same_number(spoken: Spoken) -> None:
    """Waiting is no try, so the number comes again; the text of the new lease is not mixed into the old."""
    spoken.watching.note(started())
    spoken.say("Dear")
    first = spoken.get()
    spoken.say("Hello", fence=2)
    early = spoken.get()
    spoken.watching.note(event(EventType.STEP_RETRYING, step="write"))
    spoken.watching.note(started())

    assert [("write", 1, 0, 0, "Dear")] == first
    assert [] == early
    assert [("write", 1, 0, 0, "Hello")] == spoken.get()


def test_steps_of_one_lease_follow_each_other(spoken: Spoken) -> None:
    """A finished step is no reason to wait for another lease."""
    spoken.watching.note(started())
    spoken.say("Dear")
    spoken.watching.note(event(EventType.STEP_SUCCEEDED, step="write"))
    spoken.watching.note(started("sign"))
    spoken.say("Sam", step="sign")

    assert [("sign", 1, 0, 0, "Sam")] == spoken.get()


def test_calls_at_once_have_their_own_text(spoken: Spoken) -> None:
    """In the order of their numbers."""
    spoken.watching.note(started())
    spoken.say("two", call=2)
    spoken.say("one", call=1)

    assert [("write", 1, 1, 0, "one"), ("write", 1, 2, 0, "two")] == spoken.get()


def test_text_in_the_record_ends_nothing(spoken: Spoken) -> None:
    """A run may have begun before texts left the record."""
    spoken.watching.note(started())
    spoken.watching.note(event(EventType.CLAUDE_DELTA, step="write", text="old"))
    spoken.say("Dear")

    assert [("write", 1, 0, 0, "Dear")] == spoken.get()
