"""Claude's limits as its answers show them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from time import monotonic

PREFIX = "anthropic-ratelimit-"


@dataclass(frozen=True, slots=True)
class SeenLimit:
    """One limit, as one answer showed it."""

    limit: int
    """Requests or tokens per minute."""
    remaining: int
    """What is left of it just now."""
    reset_at: datetime | None
    """When all of it will be there again."""


@dataclass(frozen=True, slots=True)
class SeenLimits:
    """The limits of a model, as one answer showed them; None for those that it did not show."""

    requests: SeenLimit | None = None
    input_tokens: SeenLimit | None = None
    output_tokens: SeenLimit | None = None
    arrived_s: float = field(default_factory=monotonic, compare=False, repr=False)
    """When they came, by this process's monotonic clock."""

    @classmethod
    def from_headers(cls, headers: Mapping[str, str]) -> "SeenLimits | None":
        """What the `anthropic-ratelimit-*` headers say, or None if they say nothing.

        A limit with a number that cannot be read counts as not shown.

        Args:
            headers: By name; lower case, or a mapping that ignores case.
        """
        seen = cls(
            requests=_seen(headers, "requests"),
            input_tokens=_seen(headers, "input-tokens"),
            output_tokens=_seen(headers, "output-tokens"),
        )
        return None if seen == cls() else seen


def _seen(headers: Mapping[str, str], name: str) -> SeenLimit | None:
    """One limit from its three headers; only the reset may be missing."""
    limit = _count(headers.get(f"{PREFIX}{name}-limit"))
    remaining = _count(headers.get(f"{PREFIX}{name}-remaining"))
    if not limit or remaining is None:  # a limit of 0 would never let anything through again
        return None
    return SeenLimit(limit, remaining, _moment(headers.get(f"{PREFIX}{name}-reset")))


def _count(text: str | None) -> int | None:
    """A number that is not negative."""
    if text is None or not (text.isascii() and text.isdigit()):
        return None
    return int(text[:18])  # 10^18 a minute is beyond all limits; int() of megabytes is slow


def _moment(text: str | None) -> datetime | None:
    """A time with its zone, from RFC 3339."""
    try:
        moment = datetime.fromisoformat(text or "")
    except ValueError:
        return None
    return moment if moment.tzinfo else None
