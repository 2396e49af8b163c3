"""What the simulator was asked: the last requests one by one, the sums over all, and how often each was asked."""

from collections import Counter, deque
from dataclasses import asdict, dataclass
from datetime import datetime
from enum import StrEnum
from itertools import count
from typing import Any

from services.simulator.call_counts import CallCounts
from services.simulator.usage import UsageBook

TOKENS = (
    "input_tokens",
    "output_tokens",
    "cache_read_input_tokens",
    "cache_creation_input_tokens",
)
TOO_MANY_REQUESTS = 429
PROMPT_CHARS = 200
"""Characters of a prompt that the log shows."""


class Outcome(StrEnum):
    """How a request ended."""

    OPEN = "open"
    ANSWERED = "answered"
    ERROR = "error"
    DROPPED = "dropped"
    """The simulator cut the connection."""
    CANCELLED = "cancelled"
    """The client closed the connection before the end."""


@dataclass(slots=True)
class LoggedRequest:
    """One request and what became of it."""

    number: int
    received_at: datetime
    model: str
    is_streamed: bool
    prompt_sha256: str
    prompt_start: str
    user_id: str | None
    """metadata.user_id: the run, where the caller says so."""
    outcome: Outcome = Outcome.OPEN
    fault: str | None = None
    status: int | None = None
    stop_reason: str | None = None
    input_tokens: int = 0
    """Without those that were read from the cache or written to it."""
    output_tokens: int = 0
    """Of an answer that was broken off: what had been produced."""
    cache_read_input_tokens: int = 0
    cache_creation_input_tokens: int = 0
    duration_ms: float | None = None


class Ledger:
    """Keeps the last requests and counts all."""

    def __init__(self, *, max_requests: int) -> None:
        """Start empty.

        Args:
            max_requests: How many requests are kept one by one.
        """
        self.calls = CallCounts()
        self.usage = UsageBook()
        self._requests: deque[LoggedRequest] = deque(maxlen=max_requests)
        self._numbers = count(1)
        self._totals: Counter[str] = Counter()
        self._open = 0
        self._most_open = 0

    def open(self, **facts: Any) -> LoggedRequest:
        """Note a request that came in."""
        request = LoggedRequest(number=next(self._numbers), **facts)
        self._requests.append(request)
        self.calls.note_started(request.user_id, request.prompt_sha256)
        self._totals["requests"] += 1
        self._open += 1
        self._most_open = max(self._most_open, self._open)
        return request

    def close(self, request: LoggedRequest, *, duration_ms: float) -> None:
        """Note that a request has ended, with what was noted on it."""
        request.duration_ms = round(duration_ms, 1)
        self._open -= 1
        if request.outcome is Outcome.ANSWERED:
            self.calls.note_answered(request.user_id, request.prompt_sha256)
        self._totals[request.outcome] += 1
        self._totals["answered_429"] += request.status == TOO_MANY_REQUESTS
        for name in TOKENS:
            self._totals[name] += getattr(request, name)

    def requests(self) -> list[dict[str, Any]]:
        """The last requests, oldest first."""
        return [asdict(request) for request in self._requests]

    def totals(self) -> dict[str, Any]:
        """Sums over all requests since the start or the last clear()."""
        names = ("requests", *TOKENS, *Outcome, "answered_429")
        sums = {str(name): self._totals[name] for name in names}
        return sums | {"open": self._open, "most_open": self._most_open}

    def clear(self) -> None:
        """Forget all but the requests that are still open; of calls, forget those too."""
        still_open = [request for request in self._requests if request.duration_ms is None]
        self._requests.clear()
        self._requests.extend(still_open)
        self._totals.clear()
        self.calls.clear()
        self.usage.clear()
        self._most_open = self._open
