"""What one simulator process remembers."""

from dataclasses import dataclass
from typing import cast

from fastapi import Request

from config.simulator import SimulatorSettings
from services.simulator.faults import FaultBoard
from services.simulator.ledger import Ledger


@dataclass(frozen=True, slots=True)
class State:
    """Settings, fault rules and ledger of this process."""

    settings: SimulatorSettings
    faults: FaultBoard
    ledger: Ledger


def state_of(request: Request) -> State:
    """The state of the app that serves the request."""
    return cast("State", request.app.state.simulator)
