"""How the execution of a run ends, before that is recorded."""

from dataclasses import dataclass, field
from decimal import Decimal

from services.core.runs.models import Failure, Json, NewEmail
from services.core.usage import Usage


@dataclass(frozen=True, slots=True)
class Spent:
    """What the calls of a try used that left no checkpoint."""

    usage: Usage = field(default_factory=Usage)
    cost_usd: Decimal = Decimal(0)


@dataclass(frozen=True, slots=True)
class Succeeded:
    """Every step has its checkpoint."""

    output: Json
    email: NewEmail | None


@dataclass(frozen=True, slots=True)
class Retrying:
    """A step failed for now; it is tried again after `delay_s` seconds."""

    step: str
    error: str
    delay_s: float
    spent: Spent


@dataclass(frozen=True, slots=True)
class Parked:
    """A step waits for Claude's limits, a budget or a message batch; nothing has failed."""

    step: str
    wait_s: float
    """Seconds until it is tried again, at the latest."""
    reason: str
    """As CallParkedError gives it."""


@dataclass(frozen=True, slots=True)
class Failed:
    """The run cannot go on."""

    failure: Failure
    spent: Spent


@dataclass(frozen=True, slots=True)
class PutBack:
    """This version of the code does not know such a run; a worker of another version may."""

    reason: str


@dataclass(frozen=True, slots=True)
class Cleared:
    """A suspect has come on alone: what is left of it is executed among others."""


Ending = Succeeded | Retrying | Failed | PutBack | Cleared
