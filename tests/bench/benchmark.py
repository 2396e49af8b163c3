"""What a benchmark is: subjects that are measured in turn, some rounds each, and goals for what comes out."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from statistics import median

Measure = Callable[[], Mapping[str, float]]
"""One round of one subject: starts its servers, measures, stops them; the values by name."""
Rounds = Mapping[str, list[Mapping[str, float]]]
"""What the rounds gave, by subject."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """A bound on what a benchmark shows."""

    name: str
    bound: float
    unit: str
    is_at_most: bool
    """Else at least."""
    of: Callable[[Rounds], float]
    """The measured value, in that unit, of the rounds of the goal's benchmark."""

    def is_met(self, measured: float) -> bool:
        """Whether the value keeps the bound."""
        return measured <= self.bound if self.is_at_most else measured >= self.bound


@dataclass(frozen=True, slots=True, kw_only=True)
class Benchmark:
    """Subjects that do the same work; their rounds are interleaved, so that all meet the same machine."""

    name: str
    """On the command line: `python -m tests.bench NAME`."""
    title: str
    what: str
    """What is done and measured, in a sentence or two."""
    units: Mapping[str, str]
    """By the names of the values."""
    subjects: Mapping[str, Measure]
    goals: tuple[Goal, ...] = field(default=())
    rounds: int = 3


def median_of(rounds: Rounds, subject: str, value: str) -> float:
    """The median over the rounds of a subject."""
    return median(values[value] for values in rounds[subject])
