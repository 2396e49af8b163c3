"""What one simulator process remembers."""

import asyncio
from dataclasses import dataclass, field
from typing import cast

from fastapi import Request

from config.simulator import SimulatorSettings
from services.simulator.batches import BatchBoard
from services.simulator.conversation import UnfinishedAnswers
from services.simulator.faults import FaultBoard
from services.simulator.ledger import Ledger
from services.simulator.limits import LimitBoard
from services.simulator.prompt_cache import PromptCache


@dataclass(frozen=True, slots=True)
class State:
    """Settings, rules and memory of this process."""

    settings: SimulatorSettings
    faults: FaultBoard
    ledger: Ledger
    limits: LimitBoard
    batches: BatchBoard
    cache: PromptCache = field(default_factory=PromptCache)
    unfinished: UnfinishedAnswers = field(default_factory=UnfinishedAnswers)
    tasks: set[asyncio.Task[None]] = field(default_factory=set)
    """Batches under way."""


def state_of(request: Request) -> State:
    """The state of the app that serves the request."""
    return cast("State", request.app.state.simulator)
