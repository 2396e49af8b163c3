"""The stack as local processes: everything by signals and by `python -m local`. There is no network to cut."""

import json
import os
import shlex
import signal
import socket
import subprocess
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from http.client import HTTPConnection
from pathlib import Path
from typing import IO, Any, Final
from xmlrpc.client import ServerProxy, Transport

from tests.chaos.stack import StackError, from_runner

TIMEOUT_S: Final = 120.0
POLL_S: Final = 0.1
LOG_LINES: Final = 400
RUNNING: Final = ("starting", "running", "backoff")


@dataclass(slots=True)
class LocalStack:
    """A stack that `python -m local` runs."""

    mode: str = "local"
    _command: list[str] = field(default_factory=lambda: shlex.split(from_runner("LOCAL")))
    _folder: Path = field(default_factory=lambda: Path(from_runner("RUN_DIR")))
    _beside: dict[str, list[subprocess.Popen[bytes]]] = field(default_factory=dict)
    """Instances besides the first, oldest first."""

    def setting(self, name: str, default: str) -> str:
        """From the environment that the worker is started with."""
        return str(self._program("worker")["environment"].get(name) or default)

    def now(self) -> float:
        """There is one clock."""
        return time.time()  # noqa: TID251 - black box: no clock of ours here

    def kill(self, service: str) -> None:
        """SIGKILL to all processes, stopped first so that none starts another in between."""
        for instance in self._beside.pop(service, []):
            _signal_all(_families([instance.pid]), signal.SIGKILL)
            instance.wait()
        self._local("kill", service)

    def kill_inside(self, service: str, *, every: bool = False) -> int:
        """To children of what supervisord started; it restarts what ends by it."""
        mains = self._mains(service)
        inside = sorted(pid for pid, parent in _families(mains).items() if parent in mains)
        chosen = inside if every else inside[-1:]
        _signal_all(chosen, signal.SIGKILL)
        return len(chosen)

    def signal(self, service: str, name: str) -> None:
        """To the process that supervisord started."""
        os.kill(self._mains(service)[0], signal.Signals[f"SIG{name}"])

    def pause(self, service: str, *, is_first_only: bool = False) -> None:
        """SIGSTOP, until no process is found that has not got it."""
        mains, reached = self._mains(service)[: 1 if is_first_only else None], set[int]()
        while new := _families(mains).keys() - reached:
            _signal_all(new, signal.SIGSTOP)
            reached |= new

    def resume(self, service: str, *, is_first_only: bool = False) -> None:
        """SIGCONT."""
        mains = self._mains(service)[: 1 if is_first_only else None]
        _signal_all(_families(mains), signal.SIGCONT)

    def stop(self, service: str) -> float:
        """By supervisord, with the stop signal and the grace period of the Compose file."""
        began = time.monotonic()
        self._stop_beside(service)
        self._stop_first(service)
        return time.monotonic() - began

    def start(self, service: str) -> None:
        """By supervisord."""
        self._supervisor("startProcess", service, False)  # noqa: FBT003 - not waiting; it takes no keywords

    def scale(self, service: str, count: int) -> None:
        """Further instances are processes of ours; the first one is supervisord's."""
        beside = self._beside.setdefault(service, [])
        while len(beside) + 1 > count > 0:
            _end(beside.pop())
        while len(beside) + 1 < count:
            beside.append(self._start_beside(service, self._command))

    def start_beside(self, service: str, tree: Path) -> None:
        """Run the service's command from the other tree; healthy when it has taken up its work."""
        command = list(self._command)
        command[command.index("--root") + 1] = str(tree)
        self._beside.setdefault(service, []).append(self._start_beside(service, command))
        time.sleep(5)

    def stop_older(self, service: str) -> None:
        """The first instance is supervisord's; it stays stopped."""
        *older, newest = self._beside[service]
        for instance in older:
            _end(instance)
        self._beside[service] = [newest]
        self._stop_first(service)

    def redeploy(self, service: str, tree: Path) -> None:
        """Not here: supervisord starts a service from the tree that it was started with."""
        raise StackError(f"local mode cannot run {service} from {tree}")

    def wait_healthy(self, *services: str, timeout_s: float = 60) -> None:
        """By the health checks of the Compose file."""
        deadline = time.monotonic() + timeout_s
        while waiting := self._not_healthy(services):
            if time.monotonic() > deadline:
                raise StackError(f"not healthy within {timeout_s:g} s: {', '.join(waiting)}")
            time.sleep(POLL_S)

    def cut(self, service: str, peer: str) -> None:
        """Not here: all processes share the machine's network."""
        raise StackError(f"local mode cannot cut {service} from {peer}")

    def heal(self, service: str, peer: str) -> None:
        """Not here."""
        raise StackError(f"local mode cannot cut {service} from {peer}")

    def redis(self, *arguments: str, stdin: bytes | None = None) -> str:
        """In Redis's own protocol: no package brings redis-cli."""
        words = [word.encode() for word in arguments] + ([] if stdin is None else [stdin])
        address = ("127.0.0.1", int(self._env["REDIS_PUBLISH_PORT"]))
        with socket.create_connection(address, timeout=TIMEOUT_S) as connection:
            answers = connection.makefile("rb")
            for command in ([b"AUTH", self._env["REDIS_PASSWORD"].encode()], words):
                connection.sendall(_encode(command))
                lines = list(_read_reply(answers))
        return "\n".join(lines).strip()

    def sql(self, query: str) -> list[dict[str, Any]]:
        """Psql comes with the PostgreSQL of local mode."""
        wrapped = f"SELECT coalesce(json_agg(rows), '[]') FROM ({query}) AS rows"  # noqa: S608 - their own
        program = self._program("postgres")["environment"]
        environment = program | {"PGPASSWORD": self._env["POSTGRES_PASSWORD"]}
        login = ("--host=127.0.0.1", f"--username={program['POSTGRES_USER']}")
        options = ("--no-psqlrc", "--tuples-only", "--no-align", "--quiet", "--file=-")
        command = ("psql", *login, f"--dbname={program['POSTGRES_DB']}", *options)
        strict = ("--set=ON_ERROR_STOP=1",)
        rows: list[dict[str, Any]] = json.loads(
            _run(*command, *strict, stdin=wrapped.encode(), environment=environment)
        )
        return rows

    def shell(self, service: str, command: str) -> str:
        """With the service's environment, in the folder that has its data."""
        folder = shlex.quote(str(self._folder / "data" / service))
        return self._local("run", service, "sh", "-c", f"cd {folder} && {command}")

    def logs(self, *services: str, since_s: float = 120) -> str:
        """The ends of the log files."""
        files = sorted((self._folder / "logs").glob("*.log"))
        return "\n".join(
            f"{file.stem:<16} | {line}"
            for file in files
            if not services or file.stem in services
            for line in file.read_text(errors="replace").splitlines()[-LOG_LINES:]
        )

    def is_down(self, service: str) -> bool:
        """Neither supervisord's instance nor one beside it runs."""
        return not self._find(service)

    @property
    def _env(self) -> dict[str, str]:
        lines = Path(from_runner("ENV_FILE")).read_text().splitlines()
        return dict(line.split("=", 1) for line in lines if "=" in line and line[0] != "#")

    def _program(self, service: str) -> dict[str, Any]:
        """What local mode starts the service as."""
        programs = json.loads((self._folder / "programs.json").read_text())
        return dict(programs[service])

    def _mains(self, service: str) -> list[int]:
        """The main process of each instance of a service, the first instance's first."""
        found = self._find(service)
        if not found:
            raise StackError(f"no process of {service} runs")
        return found

    def _find(self, service: str) -> list[int]:
        beside = self._beside.get(service, [])
        mains = [pid for instance in beside for pid in _children(instance.pid)]
        first = self._supervisor("getProcessInfo", service)["pid"]
        return [*([first] if first else []), *mains]

    def _not_healthy(self, services: tuple[str, ...]) -> list[str]:
        rows = [line.split() for line in self._local("ps", *services).splitlines()]
        return [
            name
            for name, state, *rest in rows
            if not (rest[-1:] == ["healthy"] or (name == "migrate" and state == "exited"))
        ]

    def _start_beside(self, service: str, command: list[str]) -> subprocess.Popen[bytes]:
        """One more process of the service, under a name of its own where it has one."""
        number = len(self._beside.get(service, ())) + 2
        words = [_renamed(word, number) for word in self._program(service)["command"]]
        with (self._folder / "logs" / f"{service}-beside.log").open("ab") as log:
            return subprocess.Popen([*command, "run", service, *words], stdout=log, stderr=log)

    def _stop_beside(self, service: str) -> None:
        for instance in self._beside.pop(service, []):
            _end(instance)

    def _stop_first(self, service: str) -> None:
        if self._supervisor("getProcessInfo", service)["pid"]:
            self._supervisor("stopProcess", service)

    def _supervisor(self, method: str, *arguments: object) -> Any:
        """Asked directly: a command of ours takes seconds on a busy machine, and a fault has its time."""
        transport = _UnixTransport(self._folder / "supervisor.sock")
        with ServerProxy("http://localhost", transport) as server:
            return getattr(server.supervisor, method)(*arguments)

    def _local(self, *words: str) -> str:
        return _run(*self._command, *words)


class _UnixTransport(Transport):
    """XML-RPC to a socket in the file system."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    def make_connection(self, host: Any) -> HTTPConnection:
        """A connection to the socket; the host is a formality."""
        connection = HTTPConnection("localhost", timeout=TIMEOUT_S)
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.connect(str(self._path))
        self._connection = host, connection  # so that close() closes it
        return connection


def _renamed(word: str, number: int) -> str:
    """A Celery worker's --hostname=name@host, with a number to the name."""
    return word.replace("@", f"{number}@") if word.startswith("--hostname=") else word


def _end(instance: subprocess.Popen[bytes]) -> None:
    """SIGTERM to what `python -m local run` runs, and wait."""
    _signal_all(_children(instance.pid), signal.SIGTERM)
    instance.wait(timeout=TIMEOUT_S)


def _children(pid: int) -> list[int]:
    return [child for child, parent in _families([pid]).items() if parent == pid]


def _families(mains: Iterable[int]) -> dict[int, int]:
    """Processes and their descendants, each with its parent."""
    listing = _run("ps", "-e", "-o", "pid=,ppid=")
    parents = {int(row[0]): int(row[1]) for row in map(str.split, listing.splitlines())}
    found = {pid: parents[pid] for pid in mains if pid in parents}
    while more := {p: q for p, q in parents.items() if q in found and p not in found}:
        found |= more
    return found


def _signal_all(pids: Iterable[int], number: signal.Signals) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def _encode(words: list[bytes]) -> bytes:
    """A command in RESP, Redis's protocol."""
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(w), w) for w in words)


def _read_reply(answers: IO[bytes]) -> Iterator[str]:
    """The lines that redis-cli prints for a reply, when its output is no terminal."""
    line = answers.readline().rstrip(b"\r\n").decode()
    kind, value = line[:1], line[1:]
    if kind == "*":
        for _ in range(int(value)):
            yield from _read_reply(answers)
    elif kind == "$":
        size = int(value)
        yield answers.read(size + 2)[:-2].decode(errors="replace") if size >= 0 else ""
    elif kind in ("+", ":"):
        yield value
    else:
        raise StackError(f"Redis says: {value or 'nothing'}")


def _run(*command: str, stdin: bytes = b"", environment: dict[str, str] | None = None) -> str:
    done = subprocess.run(
        command,
        check=False,
        input=stdin,
        capture_output=True,
        timeout=TIMEOUT_S,
        env=environment,
    )
    if done.returncode:
        output = (done.stderr + done.stdout).decode(errors="replace").strip()
        raise StackError(f"{' '.join(command)[:300]}: {output}")
    return done.stdout.decode(errors="replace")
