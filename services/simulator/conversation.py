"""Going on with an answer that was cut off, so that its pieces make up the whole text."""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

from services.simulator.schemas import Message

ASKS_TO_GO_ON = re.compile(r"\b(?:continu|go on|carry on|resume)", re.IGNORECASE)
MAX_UNFINISHED = 1000


@dataclass(frozen=True, slots=True)
class Unfinished:
    """A question, and how much of its answer was given."""

    question: str
    told: tuple[str, ...]

    def rest_of(self, whole: str) -> str | None:
        """What of the whole answer has not been told; None if what was told is not its beginning."""
        position = 0
        for part in self.told:
            end = _end_of(part, whole, position)
            if end is None:
                return None
            position = end
        return whole[position:]


def read_unfinished(turns: Sequence[Message]) -> Unfinished | None:
    """The answer that the turns want to be continued, if they do.

    They end in the unfinished answer itself, or in a turn that asks to go on.
    """
    roles = [turn.role for turn in turns]
    if "assistant" not in roles:
        return None
    if turns[-1].role == "user" and not ASKS_TO_GO_ON.search(turns[-1].text):
        return None
    told = tuple(turn.text for turn in turns if turn.role == "assistant")
    return Unfinished(question_of(turns), told)


def question_of(turns: Sequence[Message]) -> str:
    """What was said before the first answer."""
    asked = takewhile(lambda turn: turn.role == "user", turns)
    return "\n\n".join(turn.text for turn in asked)


class UnfinishedAnswers:
    """Answers that were cut off, by their questions.

    Who asks for the rest need not repeat the schema, and cannot with structured output: without
    it, the answer to the question would be another.
    """

    def __init__(self) -> None:
        """Start empty."""
        self._wholes: dict[bytes, str] = {}

    def note(self, turns: Sequence[Message], whole: str) -> None:
        """Keep the whole text of an answer to these turns that was not given to its end."""
        key = _key(question_of(turns))
        self._wholes.pop(key, None)
        self._wholes[key] = whole
        if len(self._wholes) > MAX_UNFINISHED:
            del self._wholes[next(iter(self._wholes))]

    def whole(self, question: str) -> str | None:
        """The whole text, if it is known."""
        return self._wholes.get(_key(question))


def _end_of(part: str, whole: str, position: int) -> int | None:
    """Where a piece ends that is told from there; None if it is not.

    A client may have stripped what it got, or the API: the whitespace at a seam counts as told
    only if it is there.
    """
    if whole.startswith(part, position):
        return position + len(part)
    rest = whole[position:]
    start = position + len(rest) - len(rest.lstrip())
    return start + len(part.strip()) if whole.startswith(part.strip(), start) else None


def _key(question: str) -> bytes:
    return hashlib.sha256(question.encode()).digest()
