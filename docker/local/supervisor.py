"""supervisord as local mode's restart policy: it keeps the programs running, detached, and rotates their logs."""

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from xmlrpc.client import Fault, ServerProxy

from supervisor.states import ProcessStates  # type: ignore[import-untyped]  # has no types
from supervisor.xmlrpc import Faults, SupervisorTransport  # type: ignore[import-untyped]  # has no types

from local.errors import LocalError
from local.processes import signal_family
from local.programs import Place, Program

LONGEST_SOCKET_PATH = 107
"""Bytes that the kernel takes for the path of a socket."""
RUNNING = (ProcessStates.STARTING, ProcessStates.RUNNING, ProcessStates.BACKOFF)

DAEMON_SECTIONS = """\
[supervisord]
directory={root}
logfile={run_dir}/logs/supervisord.log
logfile_maxbytes=10MB
logfile_backups=2
pidfile={run_dir}/supervisord.pid
childlogdir={run_dir}/logs
{user}
[unix_http_server]
file={run_dir}/supervisor.sock
chmod=0700

[rpcinterface:supervisor]
supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface
"""
PROGRAM_SECTION = """
[program:{name}]
command={command}
autostart=false
autorestart={restarts}
startsecs={start_s}
startretries=1000
stopsignal={stop_signal}
stopwaitsecs={stop_s}
killasgroup=true
redirect_stderr=true
stdout_logfile={log}
stdout_logfile_maxbytes={log_size}
stdout_logfile_backups={log_backups}
"""


def render_config(programs: Iterable[Program], place: Place) -> str:
    """The supervisord configuration; what runs is in `programs.json`, read by `local.launch` at each start."""
    user = "user=root\n" if os.geteuid() == 0 else ""
    daemon = DAEMON_SECTIONS.format(
        root=_escape(place.root), run_dir=_escape(place.run_dir), user=user
    )
    return daemon + "".join(_program_section(program, place) for program in programs)


def _program_section(program: Program, place: Place) -> str:
    service = program.service
    launch = [
        sys.executable,
        "-m",
        "local.launch",
        str(place.run_dir / "programs.json"),
        program.name,
    ]
    return PROGRAM_SECTION.format(
        name=program.name,
        command=_escape(shlex.join(launch)),
        restarts="true" if service.does_restart else "false",
        start_s=1 if service.does_restart else 0,
        stop_signal=service.stop_signal.removeprefix("SIG"),
        stop_s=int(service.stop_grace_s),
        log=_escape(log_file(place, program.name)),
        log_size=f"{service.log_max_size}b".upper(),
        log_backups=service.log_max_files - 1,
    )


def _escape(value: object) -> str:
    return str(value).replace("%", "%%")


def log_file(place: Place, name: str) -> Path:
    """Where a program's output goes."""
    return place.run_dir / "logs" / f"{name}.log"


class Supervisor:
    """The daemon of one local stack."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._socket = place.run_dir / "supervisor.sock"
        self._config = place.run_dir / "supervisord.conf"

    @property
    def is_running(self) -> bool:
        """The daemon answers."""
        try:
            self._call("getState")
        except OSError:
            return False
        return True

    @property
    def config(self) -> str:
        """The configuration that the daemon was started with; empty if there was none."""
        return self._config.read_text() if self._config.exists() else ""

    def start_daemon(self, config: str) -> None:
        """Start the daemon, with no program running yet.

        Raises:
            LocalError: It does not start.
        """
        if len(str(self._socket).encode()) > LONGEST_SOCKET_PATH:
            raise LocalError(f"the path of this checkout is too long for a socket: {self._socket}")
        self._config.write_text(config)
        command = [
            sys.executable,
            "-m",
            "supervisor.supervisord",
            "--configuration",
            str(self._config),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own words
        deadline = time.monotonic() + 10
        while not self.is_running:
            if done.returncode or time.monotonic() > deadline:
                raise LocalError(f"supervisord did not start: {done.stdout}{done.stderr}")
            time.sleep(0.05)

    def stop_daemon(self) -> None:
        """Stop the daemon; its programs have been stopped before."""
        pid = int(self._call("getPID"))
        self._call("shutdown")
        while _exists(pid):
            time.sleep(0.05)
        self._config.unlink()

    def info(self, name: str) -> dict[str, Any]:
        """Supervisor's `getProcessInfo` of a program."""
        info: dict[str, Any] = self._call("getProcessInfo", name)
        return info

    def is_up(self, name: str) -> bool:
        """The program runs, or will be started again."""
        return self.info(name)["state"] in RUNNING

    def start(self, name: str) -> None:
        """Start a program unless it runs."""
        with _tolerating(Faults.ALREADY_STARTED):
            self._call("startProcess", name, False)  # noqa: FBT003 - do not wait; XML-RPC has no keywords

    def stop(self, name: str) -> None:
        """Stop a program, by force after its grace period."""
        with _tolerating(Faults.NOT_RUNNING):
            self._call("stopProcess", name)

    def kill(self, name: str) -> None:
        """SIGKILL a program and all that it started, and keep it down."""
        pid = self.info(name)["pid"]
        if pid:
            # Stopped first, so that it neither starts processes nor is started again in between.
            signal_family(pid, signal.SIGSTOP)
            with _tolerating(Faults.NOT_RUNNING):
                self._call("stopProcess", name, False)  # noqa: FBT003 - do not wait; XML-RPC has no keywords
            signal_family(pid, signal.SIGKILL)
        self.stop(name)

    def _call(self, method: str, *arguments: object) -> Any:
        transport = SupervisorTransport(serverurl=f"unix://{self._socket}")
        proxy = ServerProxy("http://localhost", transport=transport)
        try:
            return getattr(proxy.supervisor, method)(*arguments)
        finally:
            transport.close()


@contextmanager
def _tolerating(code: int) -> Iterator[None]:
    try:
        yield
    except Fault as fault:
        if fault.faultCode != code:
            raise


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
