"""How often each question was asked and answered: what a chaos test holds against the record."""

from collections.abc import Iterator
from dataclasses import dataclass

SHA256_BYTES = 32
ANSWERED = 1 << 32
"""Started calls are counted below it, answered ones above: one number for both."""


@dataclass(frozen=True, slots=True)
class CallCount:
    """The calls of one run with one prompt."""

    run_id: str | None
    """metadata.user_id: the run, where the caller says so."""
    prompt_sha256: str
    started: int
    answered: int
    """Those that got a whole answer."""


class CallCounts:
    """Counts calls for each run and prompt, about 200 bytes each: a million of them fit the container."""

    def __init__(self) -> None:
        """Start empty."""
        self._counts: dict[bytes, int] = {}

    def note_started(self, run_id: str | None, prompt_sha256: str) -> None:
        """A call came in."""
        key = _pack(run_id, prompt_sha256)
        self._counts[key] = self._counts.get(key, 0) + 1

    def note_answered(self, run_id: str | None, prompt_sha256: str) -> None:
        """Its whole answer was sent. A call that began before the last clear() counts no more."""
        key = _pack(run_id, prompt_sha256)
        if key in self._counts:
            self._counts[key] += ANSWERED

    def clear(self) -> None:
        """Forget all calls, also those under way."""
        self._counts.clear()

    def __iter__(self) -> Iterator[CallCount]:
        """Each count as it is when it is reached; calls may come in meanwhile."""
        for key in list(self._counts):
            answered, started = divmod(self._counts.get(key, 0), ANSWERED)
            yield CallCount(
                run_id=key[SHA256_BYTES:].decode() or None,
                prompt_sha256=key[:SHA256_BYTES].hex(),
                started=started,
                answered=answered,
            )


def _pack(run_id: str | None, prompt_sha256: str) -> bytes:
    """One object for both, and as small as it can be."""
    return bytes.fromhex(prompt_sha256) + (run_id or "").encode()
