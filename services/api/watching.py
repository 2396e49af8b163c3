"""What one watcher of a run has seen, and which texts are to be shown to it at that point."""

from collections.abc import Iterator
from dataclasses import dataclass

from services.api.run_texts import RunTexts, Try
from services.core.runs.models import Event
from services.core.runs.states import EventType


@dataclass(frozen=True, slots=True)
class Delta:
    """A piece of an answer that is being written. It is not in the record, so it has no number."""

    step: str
    attempt: int
    call: int
    """Tells the calls of a try apart: 0, 1, 2, …"""
    offset: int
    """Characters of the call's text that come before it; 0 begins the text anew."""
    text: str


class Watching:
    """Puts texts between the events of the record: after their step.started, before what ends it.

    Nothing is kept for a watcher but how far it has come: one that is slow gets a larger piece later.
    """

    __slots__ = ("_least_fence", "_open", "_shown", "_texts", "_tried")

    def __init__(self, texts: RunTexts) -> None:
        self._texts = texts
        self._open: tuple[str, int] | None = None
        """Step and attempt that run, by the events that the watcher has seen."""
        self._tried: Try | None = None
        """The same once it has spoken, with the fence of its lease."""
        self._least_fence = 0
        self._shown: dict[int, int] = {}
        """Characters by call that the watcher has got."""

    def note(self, event: Event) -> None:
        """The watcher has seen an event."""
        if event.type is EventType.CLAUDE_DELTA:  # of a run before texts left the record
            return
        if self._tried:
            # A run that waited is tried again with the same number, and only the fence tells.
            is_same_lease = event.type is EventType.STEP_SUCCEEDED
            self._least_fence = self._tried.fence + (0 if is_same_lease else 1)
        self._open = self._tried = None
        self._shown = {}
        if event.type is EventType.STEP_STARTED:
            self._open = event.data["step"], event.data["attempt"]

    def pass_on(self, event: Event) -> Iterator[Event | Delta]:
        """The rest of what was said before an event, and the event."""
        yield from self.deltas()
        self.note(event)
        yield event

    def deltas(self) -> Iterator[Delta]:
        """What has been said since, call by call."""
        tried = self._find_try()
        if tried is None:
            return
        for call, text in sorted(self._texts.texts_of(tried).items()):
            shown = self._shown.get(call, 0)
            if len(text) > shown:
                self._shown[call] = len(text)
                yield Delta(tried.step, tried.attempt, call, shown, text[shown:])

    def _find_try(self) -> Try | None:
        """The open try, once it has spoken."""
        if self._open and not self._tried:
            step, attempt = self._open
            fence = self._texts.newest_fence(step, attempt, least=self._least_fence)
            if fence is not None:
                self._tried = Try(fence, step, attempt)
        return self._tried
