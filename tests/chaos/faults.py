"""Every fault of the suite: one table, each row with what it does, how it is undone, and what must hold meanwhile."""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from tests.chaos.scene import RESTART_BOUND_S, Scene

Action = Callable[[Scene], None]
BOTH: Final = ("compose", "local")
COMPOSE: Final = ("compose",)


class Answers(StrEnum):
    """What a client of the API may meet while the fault lasts."""

    ACCEPT = "accept"
    """Every POST is answered 202 within 1 s."""
    REFUSE = "refuse"
    """Every request is answered within 2 s; if with 503, then with Retry-After."""
    ANY = "any"
    """The API itself is hurt: connections may fail."""


def nothing(scene: Scene) -> None:
    """Leave it to what was posted."""


def beyond_lease(scene: Scene) -> float:
    """So long that leases lapse."""
    return scene.beyond_lease_s


def general_bound(scene: Scene) -> float:
    """The lease, a sweep and 5 s."""
    return scene.bound_s


def restart_bound(scene: Scene) -> float:
    """For SIGTERM and whatever happens to Redis."""
    return RESTART_BOUND_S


@dataclass(frozen=True, slots=True)
class Fault:
    """A row of the table."""

    name: str
    what: str
    apply: Action
    heal: Action | None = None
    hold_s: Callable[[Scene], float] = lambda _: 0.0
    answers: Answers = Answers.ACCEPT
    bound_s: Callable[[Scene], float] = general_bound
    modes: tuple[str, ...] = BOTH
    is_full_only: bool = False
    moments: int = 1
    """How often calls in flight can be lost; 0: nobody who makes calls is hurt."""
    spoiled: int = 0
    """Calls that are answered, and paid for, in vain."""
    runs: int | None = None
    """Runs that are posted before it; None: as many as the form of the suite says."""
    running: int = 8
    """Steps that are being executed when it comes, at least."""
    input: dict[str, Any] = field(default_factory=lambda: {"seconds": 0.3})
    """What each drill run is told."""
    input_after: dict[str, Any] | None = None
    """What those are told that are posted after the first ones; None: the same."""
    has_emails: bool = True
    """Some runs write an email instead of being drills."""
    poison: dict[str, Any] | None = None
    """What the poison runs among them are told besides."""
    poison_every: int = 10
    """One in so many of those that are posted before is poisoned."""
    is_poison_deadly: bool = True
    """The poison runs must end as `crashed`, after exactly as many crashes as are allowed."""
    pipelines: tuple[str, ...] = ("drill",)
    """What is posted, in turn."""
    prepare: Action | None = None
    """What is put up before the cell."""
    restore: Action | None = None
    """What is taken down after it."""


def for_s(seconds: float) -> Callable[[Scene], float]:
    """A fixed time."""
    return lambda _: seconds


def _on_all(names: tuple[str, ...], method: str) -> Action:
    def act(scene: Scene) -> None:
        for name in names:
            getattr(scene.stack, method)(name)

    return act


def killed(name: str, *services: str, what: str, **values: Any) -> Fault:
    """SIGKILL of whole services, started again a second later."""
    values = {"hold_s": for_s(1.0)} | values
    return Fault(
        f"kill {name}", what, _on_all(services, "kill"), _on_all(services, "start"), **values
    )


def frozen(service: str, *, what: str, **values: Any) -> Fault:
    """SIGSTOP beyond the lease, then SIGCONT."""
    values = {"hold_s": beyond_lease} | values
    return Fault(
        f"freeze {service}",
        what,
        _on_all((service,), "pause"),
        _on_all((service,), "resume"),
        **values,
    )


def cut(service: str, peer: str, **values: Any) -> Fault:
    """No network between two."""
    return Fault(
        f"cut {service}–{peer}",
        f"`docker network disconnect` of {service} from the network of {peer}, then connected again",
        lambda scene: scene.stack.cut(service, peer),
        lambda scene: scene.stack.heal(service, peer),
        **{"hold_s": beyond_lease, "modes": COMPOSE} | values,
    )


def claude(
    name: str,
    what: str,
    *,
    spoiled: int = 0,
    bound_s: Callable[[Scene], float] = general_bound,
    **rule: Any,
) -> Fault:
    """The simulator fails calls for two seconds, or so many of them."""
    return Fault(
        f"Claude {name}",
        what,
        lambda scene: scene.ledger.add_fault(**rule),
        lambda scene: scene.ledger.clear_faults(),
        hold_s=for_s(2.0),
        moments=0,
        spoiled=spoiled,
        bound_s=bound_s,
    )


DEATHS: Final = """
    SELECT count(*) AS n FROM runs WHERE crashes > 0 AND created_at > now() - interval '15 s'
"""


def until_death(scene: Scene) -> None:
    """Wait until the poison has struck for the first time."""
    scene.until(DEATHS, at_least=1)


def poisoned(
    name: str,
    what: str,
    *,
    is_deadly: bool = True,
    modes: tuple[str, ...] = BOTH,
    **plan: Any,
) -> Fault:
    """Runs among innocent ones that take their process along."""
    return Fault(
        f"poison {name}",
        what,
        until_death if is_deadly else nothing,
        moments=3,
        poison={"poison": name, "poison_step": "second"} | plan,
        poison_every=30,
        is_poison_deadly=is_deadly,
        modes=modes,
        hold_s=for_s(1.0),
    )
