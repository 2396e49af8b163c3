"""What goes into a drill run, from step to step, and what comes out."""

from enum import StrEnum
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class Poison(StrEnum):
    """How a step ends the process that it runs in, or tries to."""

    EXIT = "exit"
    SIGKILL = "sigkill"
    SIGSEGV = "sigsegv"
    MEMORY = "memory"
    """Allocates until the kernel ends the process."""
    SYSTEM_EXIT = "system_exit"
    BLOCK = "block"
    """Holds the process's event loop for `block_s`; nothing else there goes on."""


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class DrillInput(_Model):
    """What a run does."""

    seconds: float = Field(default=0, ge=0)
    """Seconds that each step sleeps before its call."""
    first_seconds: float | None = Field(default=None, ge=0)
    """Seconds that the first step sleeps instead."""
    poison: Poison | None = None
    poison_step: Literal["first", "second", "third"] = "second"
    """The step that the poison strikes, before its call."""
    poison_tries: int | None = None
    """Tries of that step that the poison strikes; None: every one."""
    block_s: float = Field(default=10, ge=0)
    size: int = Field(default=0, ge=0)
    """Bytes that the output is filled up with."""


class Progress(_Model):
    """What a step leaves to the next."""

    plan: DrillInput
    words: tuple[str, ...]


class DrillOutput(_Model):
    """What a run leaves."""

    words: tuple[str, ...]
    """What Claude said, one a step."""
    filling: str


class Word(_Model):
    """Claude's answer: as small as one can be."""

    word: Literal["done"]
