"""The stack as containers: everything by `docker` commands, as an operator would do it."""

import json
import os
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tests.chaos.stack import StackError, from_runner

TIMEOUT_S: Final = 120.0
POLL_S: Final = 0.1
NETWORKS: Final = {"postgres": "record", "redis": "broker", "simulator": "claude"}
"""The network that a server is reached by."""
ONCE: Final = {"migrate"}
SMALL_DISKS: Final = "tests/chaos/compose.small-disks.yaml"
SELDOM_CHECKED: Final = {"beat", "flower"}
"""Their health is looked at once a minute, so that it says little about this moment."""
PARENTS: Final = "grep -H ^PPid: /proc/[0-9]*/status 2>/dev/null || true"
"""One line for each process: its folder, and its parent's number."""
REDIS_CLI: Final = 'REDISCLI_AUTH="$(cat /run/secrets/redis_password)" exec redis-cli "$@"'
PSQL: Final = (
    'exec psql --username="$POSTGRES_USER" --dbname="$POSTGRES_DB" --no-psqlrc --tuples-only '
    "--no-align --quiet --set=ON_ERROR_STOP=1 --file=-"
)


@dataclass(slots=True)
class ComposeStack:
    """A stack that `docker compose` runs; COMPOSE_FILE and the like are in the environment."""

    project: str = field(default_factory=lambda: from_runner("PROJECT"))
    mode: str = "compose"

    def setting(self, name: str, default: str) -> str:
        """From the environment that the worker's container was made with."""
        container = self._containers("worker", running=False)[0]
        lines = json.loads(_run("docker", "inspect", "--format={{json .Config.Env}}", container))
        values = dict(line.split("=", 1) for line in lines)
        return values.get(name) or default

    def now(self) -> float:
        """Containers have this machine's clock."""
        return time.time()  # noqa: TID251 - black box: no clock of ours here

    def kill(self, service: str) -> None:
        """SIGKILL to each container; Docker does not restart what was killed by command."""
        _run("docker", "kill", *self._containers(service))

    def kill_inside(self, service: str, *, every: bool = False) -> int:
        """By `kill` in the container, so that the restart policy holds."""
        count = 0
        for container in self._containers(service):
            inside = _inside(_exec(container, PARENTS))
            chosen = inside if every else inside[-1:]
            if chosen:
                _exec(container, f"kill -9 {' '.join(map(str, chosen))} 2>/dev/null || true")
            count += len(chosen)
            if count and not every:
                break
        return count

    def signal(self, service: str, name: str) -> None:
        """To the process that the container's init started, from inside, so that the restart policy holds."""
        for container in self._containers(service):
            children = _parents(_exec(container, PARENTS))
            main = min(pid for pid, parent in children.items() if parent == 1)
            _exec(container, f"kill -{name} {main}")

    def pause(self, service: str, *, is_first_only: bool = False) -> None:
        """Freeze the containers."""
        _run("docker", "pause", *self._containers(service)[-1 if is_first_only else 0 :])

    def resume(self, service: str, *, is_first_only: bool = False) -> None:
        """Thaw them."""
        _run("docker", "unpause", *self._containers(service)[-1 if is_first_only else 0 :])

    def stop(self, service: str) -> float:
        """`docker stop` with the grace period of the Compose file."""
        began = time.monotonic()
        _run("docker", "stop", *self._containers(service))
        return time.monotonic() - began

    def start(self, service: str) -> None:
        """Start the same containers again."""
        _run("docker", "start", *self._containers(service, running=False))

    def scale(self, service: str, count: int) -> None:
        """By Compose."""
        _compose(
            "up", "--detach", "--no-deps", "--no-recreate", "--scale", f"{service}={count}", service
        )

    def start_beside(self, service: str, tree: Path) -> None:
        """Compose leaves those that run alone and makes the new one from the new tree."""
        count = len(self._containers(service))
        _compose(
            *("up", "--detach", "--wait", "--no-deps", "--no-recreate"),
            *("--scale", f"{service}={count + 1}", service),
            PENSTOCK_TREE=str(tree),
        )

    def stop_older(self, service: str) -> None:
        """All but the newest container."""
        older = self._containers(service)[1:]
        _run("docker", "stop", *older)
        _run("docker", "rm", *older)

    def redeploy(self, service: str, tree: Path) -> None:
        """Compose makes the container anew, because what it mounts has changed."""
        _compose("up", "--detach", "--wait", "--no-deps", service, PENSTOCK_TREE=str(tree))

    def use_small_disk(self, service: str) -> None:
        """Recreate the server with an empty file system; the record is created anew."""
        _compose("up", "--detach", "--no-deps", "disk-holder", COMPOSE_FILE=_with_small_disks())
        _compose("up", "--detach", "--wait", "--no-deps", service, COMPOSE_FILE=_with_small_disks())
        self._migrate()

    def use_usual_disks(self) -> None:
        """Recreate the servers as they were, with what they had."""
        _compose("up", "--detach", "--wait", "--no-deps", "postgres", "redis")
        _compose("rm", "--stop", "--force", "disk-holder", COMPOSE_FILE=_with_small_disks())
        self._migrate()

    def _migrate(self) -> None:
        _compose("run", "--rm", "--no-deps", "migrate")

    def wait_healthy(self, *services: str, timeout_s: float = 60) -> None:
        """As Docker sees them; a container without a health check must run."""
        deadline = time.monotonic() + timeout_s
        while waiting := self._not_healthy(services):
            if time.monotonic() > deadline:
                raise StackError(f"not healthy within {timeout_s:g} s: {', '.join(waiting)}")
            time.sleep(POLL_S)

    def cut(self, service: str, peer: str) -> None:
        """Each server has a network of its own (docker/compose.chaos.yaml), so that nothing else is cut."""
        for container in self._containers(service):
            _run("docker", "network", "disconnect", self._network_of(peer), container)

    def heal(self, service: str, peer: str) -> None:
        """Connect it again; nobody looks for the service itself by name, so that it needs no alias."""
        for container in self._containers(service):
            _run("docker", "network", "connect", self._network_of(peer), container)

    def redis(self, *arguments: str, stdin: bytes | None = None) -> str:
        """redis-cli in the container of Redis, with its password."""
        extra = ("-x",) if stdin is not None else ()
        container = self._containers("redis")[0]
        command = ("sh", "-c", REDIS_CLI, "sh", *extra, *arguments)
        return _run(
            "docker", "exec", "--interactive", container, *command, stdin=stdin or b""
        ).strip()

    def sql(self, query: str) -> list[dict[str, Any]]:
        """Psql in the container of PostgreSQL."""
        # The query is the tests' own.
        wrapped = f"SELECT coalesce(json_agg(rows), '[]') FROM ({query}) AS rows"  # noqa: S608 - their own
        container = self._containers("postgres")[0]
        command = ("docker", "exec", "--interactive", container, "sh", "-c", PSQL)
        rows: list[dict[str, Any]] = json.loads(_run(*command, stdin=wrapped.encode()))
        return rows

    def shell(self, service: str, command: str) -> str:
        """`docker exec` in its first container."""
        return _exec(self._containers(service)[0], command)

    def logs(self, *services: str, since_s: float = 120) -> str:
        """By Compose, with times."""
        return _compose("logs", "--no-color", "--timestamps", f"--since={since_s:.0f}s", *services)

    def is_down(self, service: str) -> bool:
        """No container runs."""
        return not self._find(service, running=True)

    def _network_of(self, peer: str) -> str:
        return f"{self.project}_{NETWORKS[peer]}"

    def _containers(self, service: str, *, running: bool = True) -> list[str]:
        """Ids of a service's containers, newest first."""
        found = self._find(service, running=running)
        if not found:
            raise StackError(f"no container of {service} {'runs' if running else 'is there'}")
        return found

    def _find(self, service: str, *, running: bool) -> list[str]:
        labels = {"project": self.project, "service": service}
        filters = [
            f"--filter=label=com.docker.compose.{key}={value}" for key, value in labels.items()
        ]
        return _run("docker", "ps", "--quiet", *([] if running else ["--all"]), *filters).split()

    def _not_healthy(self, services: tuple[str, ...]) -> list[str]:
        label = f"--filter=label=com.docker.compose.project={self.project}"
        form = '--format={{.Label "com.docker.compose.service"}}\t{{.State}}\t{{.Status}}'
        rows = [
            line.split("\t") for line in _run("docker", "ps", "--all", label, form).splitlines()
        ]
        wrong = {name for name, state, status in rows if not _is_well(name, state, status)}
        wanted = set(services) or {name for name, _, _ in rows}
        return sorted(wanted & wrong | wanted - {name for name, _, _ in rows})


def _with_small_disks() -> str:
    files = os.environ["COMPOSE_FILE"]  # noqa: TID251 - Compose's own variable
    return os.pathsep.join((files, SMALL_DISKS))


def _is_well(name: str, state: str, status: str) -> bool:
    if name in ONCE:
        return status.startswith("Exited (0)")
    if name in SELDOM_CHECKED:
        return state == "running"
    return state == "running" and ("(healthy)" in status or "(" not in status)


def _parents(listing: str) -> dict[int, int]:
    """The parent of each process, from the lines of PARENTS."""
    found = {}
    for line in listing.splitlines():
        place, _, parent = line.partition(":PPid:")
        found[int(place.split("/")[2])] = int(parent)
    return found


def _inside(listing: str) -> list[int]:
    """Children of what the container's init started, oldest first; not what `docker exec` started."""
    parents = _parents(listing)
    mains = {pid for pid, parent in parents.items() if parent == 1}
    return sorted(pid for pid, parent in parents.items() if parent in mains)


def _exec(container: str, command: str) -> str:
    return _run("docker", "exec", container, "sh", "-c", command)


def _compose(*arguments: str, **environment: str) -> str:
    return _run("docker", "compose", "--progress=quiet", *arguments, environment=environment)


def _run(*command: str, stdin: bytes = b"", environment: dict[str, str] | None = None) -> str:
    done = subprocess.run(
        command,
        check=False,
        input=stdin,
        capture_output=True,
        timeout=TIMEOUT_S,
        env={**os.environ, **(environment or {})},  # noqa: TID251 - Compose's own variables
    )
    if done.returncode:
        output = (done.stderr + done.stdout).decode(errors="replace").strip()
        raise StackError(f"{' '.join(command)[:300]}: {output}")
    return done.stdout.decode(errors="replace")
