"""What each run used, to the token: what its cost is held against."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from typing import Any

from services.simulator.answer import SimulatedAnswer


class Kind(StrEnum):
    """How calls are charged, and how they ended."""

    LIVE = "live"
    """Answered to their end."""
    BATCH = "batch"
    """Answered in a message batch: half the price."""
    BROKEN = "broken"
    """The simulator broke the answer off. A client of a stream was told of its input and 1 output token."""
    CANCELLED = "cancelled"
    """The client left in mid-answer, and knows at most what it would of a broken one."""


@dataclass(slots=True)
class Used:
    """Sums over calls."""

    calls: int = 0
    input_tokens: int = 0
    """Neither read from the cache nor written to it."""
    output_tokens: int = 0
    cache_read_input_tokens: int = 0
    cache_creation_input_tokens: int = 0
    cache_creation_1h_input_tokens: int = 0
    """Those of cache_creation_input_tokens that are kept for an hour, which costs more."""

    def add(self, other: "Used") -> None:
        """Add other sums."""
        for field in fields(self):
            setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name))


def used_by(answer: SimulatedAnswer, *, output_tokens: int) -> Used:
    """What a call used whose answer got so far."""
    cache = answer.cache
    return Used(
        calls=1,
        input_tokens=cache.input_tokens,
        output_tokens=output_tokens,
        cache_read_input_tokens=cache.read_tokens,
        cache_creation_input_tokens=cache.written_tokens,
        cache_creation_1h_input_tokens=cache.written_1h_tokens,
    )


class UsageBook:
    """Sums by run, kind and model, about 300 bytes each."""

    def __init__(self) -> None:
        """Start empty."""
        self._used: dict[tuple[str | None, Kind, str], Used] = {}

    def add(self, user_id: str | None, kind: Kind, model: str, used: Used) -> None:
        """Note what a call used."""
        self._used.setdefault((user_id, kind, model), Used()).add(used)

    def clear(self) -> None:
        """Forget all."""
        self._used.clear()

    def totals(self) -> dict[str, dict[str, int]]:
        """Sums over all runs and models, by kind."""
        sums = {kind: Used() for kind in Kind}
        for (_, kind, _), used in self._used.items():
            sums[kind].add(used)
        return {kind.value: asdict(used) for kind, used in sums.items()}

    def rows(self, user_id: str | None = None) -> Iterator[dict[str, Any]]:
        """The sums of all runs, or of one."""
        for (user, kind, model), used in list(self._used.items()):
            if user_id is None or user == user_id:
                yield {"user_id": user, "kind": kind.value, "model": model} | asdict(used)
