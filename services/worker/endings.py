"""How the execution of a run ends, before that is recorded."""

from dataclasses import dataclass

from services.core.runs.models import Failure, Forgotten, Json, NewEmail


@dataclass(frozen=True, slots=True)
class Succeeded:
    """Every step is done."""

    output: Json
    email: NewEmail | None
    last_step: str | None = None
    """The step whose output that is, if it has no checkpoint yet: it gets it with the run's end."""


@dataclass(frozen=True, slots=True)
class Retrying:
    """A step failed for now; it is tried again after `delay_s` seconds."""

    step: str
    error: str
    delay_s: float
    is_counted: bool = True
    """Whether the try counts against the tries that a step has."""
    forgotten: Forgotten = ()
    """What the next try asks anew."""


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
    forgotten: Forgotten = ()
    """What a replay asks anew."""


@dataclass(frozen=True, slots=True)
class PutBack:
    """This version of the code does not know such a run; a worker of another version may."""

    reason: str


@dataclass(frozen=True, slots=True)
class Cleared:
    """A suspect has come on alone: what is left of it is executed among others."""


Ending = Succeeded | Retrying | Parked | Failed | PutBack | Cleared
