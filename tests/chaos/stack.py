"""What can be done to a running Penstock from outside: signals, containers, networks, its two stores' own shells."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol


class StackError(Exception):
    """A command to the stack failed; the message has its output."""


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where a stack is reached over HTTP."""

    api_url: str
    api_key: str
    simulator_url: str

    @classmethod
    def from_runner(cls) -> "Addresses":
        """As `python -m local trial` gives them."""
        return cls(
            api_url=from_runner("URL"),
            api_key=from_runner("KEY"),
            simulator_url=from_runner("SIMULATOR_URL"),
        )


def from_runner(name: str) -> str:
    """A value that `python -m local trial` hands to what it runs.

    Raises:
        StackError: It is not there: the tests were started without the runner.
    """
    value = os.environ.get(f"PENSTOCK_E2E_{name}")  # noqa: TID251 - black box: no settings model here
    if not value:
        raise StackError(f"PENSTOCK_E2E_{name} is not set: run the chaos tests with `make chaos`")
    return value


class Stack(Protocol):
    """A running stack. Services go by their names in compose.yaml: api, worker, worker-isolated, beat, redis, postgres.

    Every method blocks until it has happened, and raises StackError if it cannot. Each can be called from a
    thread of its own. A service with several instances gets what is done to it in all of them.
    """

    mode: str
    """compose or local."""

    def setting(self, name: str, default: str) -> str:
        """The value of a setting, such as CELERY_LEASE_TTL_S, that the worker runs with."""

    def now(self) -> float:
        """Seconds since the epoch by the clock that the record's times come from."""

    # --- processes ---

    def kill(self, service: str) -> None:
        """SIGKILL to every process of a service at once; it stays down until start()."""

    def kill_inside(self, service: str, *, every: bool = False) -> int:
        """SIGKILL to the newest child (or every one) of the main process, such as a pool process; how many it were.

        What is above it (the watcher, a prefork parent, gunicorn, postmaster) does what it does then, and a restart
        policy holds.
        """

    def signal(self, service: str, name: str) -> None:
        """Any other signal, such as QUIT, to a service's main process; a restart policy holds."""

    def pause(self, service: str, *, is_first_only: bool = False) -> None:
        """SIGSTOP to (or freezing of) every process of a service, or of its oldest instance."""

    def resume(self, service: str, *, is_first_only: bool = False) -> None:
        """Let paused processes go on."""

    def stop(self, service: str) -> float:
        """Stop in good order: its stop signal, then SIGKILL after its grace period. Seconds that it took."""

    def start(self, service: str) -> None:
        """Start what was killed or stopped, without waiting until it is healthy."""

    def scale(self, service: str, count: int) -> None:
        """Run so many instances of a service: new ones beside those that run, or the newest ones stopped."""

    def start_beside(self, service: str, tree: Path) -> None:
        """One more instance of a service, from another tree; wait until it is healthy."""

    def stop_older(self, service: str) -> None:
        """Stop in good order, and remove, all instances of a service but the newest."""

    def redeploy(self, service: str, tree: Path) -> None:
        """Replace a service by one from another tree: stop, then start; wait until it is healthy."""

    def use_small_disk(self, service: str) -> None:
        """Let a server begin anew on a small, empty file system, with the schema and the first key."""

    def use_usual_disks(self) -> None:
        """Let it go on where it was before."""

    def wait_healthy(self, *services: str, timeout_s: float = 60) -> None:
        """Until the health check of every named service (by default of all) succeeds."""

    # --- network ---

    def cut(self, service: str, peer: str) -> None:
        """Cut the network between a service and one of its peers; both go on with everybody else."""

    def heal(self, service: str, peer: str) -> None:
        """Undo cut()."""

    # --- stores ---

    def redis(self, *arguments: str, stdin: bytes | None = None) -> str:
        """What redis-cli prints for a command; with stdin as its last argument (`-x`)."""

    def sql(self, query: str) -> list[dict[str, Any]]:
        """Rows of a query, with JSON's types; read it in one statement for one moment's view."""

    def shell(self, service: str, command: str) -> str:
        """What a shell command prints that runs where the service runs (its container; its folder in local mode)."""

    # --- evidence ---

    def logs(self, *services: str, since_s: float = 120) -> str:
        """What services logged in the last seconds."""

    def is_down(self, service: str) -> bool:
        """No instance of a service runs."""


PAIRS: Sequence[tuple[str, str]] = (
    ("api", "postgres"),
    ("api", "redis"),
    ("worker", "postgres"),
    ("worker", "redis"),
    ("worker", "simulator"),
    ("worker-isolated", "postgres"),
    ("worker-isolated", "redis"),
    ("beat", "redis"),
)
"""Who talks to whom, and can be cut from whom."""
