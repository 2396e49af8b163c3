"""Penstock with one of its safeguards off: what the chaos suite must notice."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Change:
    """A text of a file to be replaced; it must be there exactly once."""

    path: str
    old: str
    new: str


MUTATIONS: dict[str, tuple[Change, ...]] = {}
"""Name to what must change for the safeguard to be off."""
