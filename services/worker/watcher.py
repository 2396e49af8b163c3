"""Starts a worker, and sees to its runs if it dies: `python -m services.worker.watcher COMMAND ...`.

No process can report its own SIGKILL. So this tiny parent shares a flight recorder with the worker
and passes signals on to it. When the worker is gone without a goodbye, postmortem.py gives its runs
back and charges the one that was on the CPU, and the worker is started again at once. A container
that restarts would wait longer with each death in a row (Docker: up to a minute), and so would
everybody's runs.

A worker that never got to its first claim, or was told to stop, or dies soon again and again, is
the container's business: the watcher ends as it ended.

It waits beside the worker for all its life, so it imports next to nothing.
"""

import os
import signal
import sys
import time
from collections.abc import Mapping
from typing import NoReturn

from services.worker.flight_recorder import FD_VARIABLE, SIZE, FlightRecorder

PASSED_ON = (
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGHUP,
    signal.SIGUSR1,
    signal.SIGUSR2,
)
AWAITED = (*PASSED_ON, signal.SIGCHLD, signal.SIGALRM)
STOPS = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGQUIT})
SHORT_LIFE_S = 10.0
MAX_SHORT_LIVES = 20
"""Workers in a row that die within SHORT_LIFE_S: more deaths than a crowd of poison runs causes."""
POSTMORTEM_TIMEOUT_S = 10
"""Seconds that giving runs back may take; after that their leases lapse."""
NO_CHANGE: Mapping[str, str] = {}
POSTMORTEM_ENVIRONMENT = {"PYDANTIC_DISABLE_PLUGINS": "__all__"}
"""Pydantic would import Logfire, which nothing there uses: a fifth of the time."""
PR_SET_PDEATHSIG = 1
EX_NOT_FOUND = 127
"""Exit status of a command that does not exist, as a shell has it."""


def main(command: list[str]) -> int:
    """Run the command until it is not to be started again; how it ended last: its exit status, or 128 + the signal."""
    signal.pthread_sigmask(signal.SIG_BLOCK, AWAITED)
    signal.signal(signal.SIGCHLD, _nothing)  # POSIX may drop an ignored signal, also a blocked one
    fd = _open_shared_memory()
    recorder = FlightRecorder.open(fd)
    short_lives = 0
    while True:
        started_s = time.monotonic()
        status, is_stopped = _wait(_start(command, recorder_fd=fd))
        is_short = time.monotonic() - started_s < SHORT_LIFE_S
        short_lives = short_lives + 1 if is_short else 0
        held = recorder.owner is not None
        if held:
            is_stopped |= _give_back_runs(recorder, how=_describe_end(status))
        if not held or is_stopped or short_lives >= MAX_SHORT_LIVES:
            return status if status >= 0 else 128 - status


def _give_back_runs(recorder: FlightRecorder, *, how: str) -> bool:
    """Have the runs of the dead worker given back; whether a stop was asked for meanwhile."""
    command = postmortem_command(recorder.owner or "", run_on_cpu=recorder.run_on_cpu, how=how)
    recorder.clear()
    signal.alarm(POSTMORTEM_TIMEOUT_S)
    _, is_stopped = _wait(_start(command, POSTMORTEM_ENVIRONMENT), is_patient=False)
    signal.alarm(0)
    return is_stopped


def postmortem_command(owner: str, *, run_on_cpu: str | None, how: str) -> list[str]:
    """What gives back the runs of a dead process, and charges the one that was on the CPU."""
    return [sys.executable, "-m", "services.worker.postmortem", owner, run_on_cpu or "-", how]


def _describe_end(status: int) -> str:
    """What ended a process, from its exit status; negative for a signal."""
    if status >= 0:
        return f"exit status {status}"
    try:
        return signal.Signals(-status).name
    except ValueError:  # a real-time signal
        return f"signal {-status}"


def _open_shared_memory() -> int:
    if sys.platform == "linux":
        fd = os.memfd_create("flight-recorder", 0)
    else:
        from tempfile import TemporaryFile  # noqa: PLC0415 - Linux needs it not

        with TemporaryFile() as file:
            fd = os.dup(file.fileno())
    os.truncate(fd, SIZE)
    return fd


def _start(
    command: list[str],
    environment: Mapping[str, str] = NO_CHANGE,
    *,
    recorder_fd: int | None = None,
) -> int:
    """Start a command, with changes to the environment; its process id."""
    watcher = os.getpid()
    child = os.fork()
    if child == 0:
        os.environ.update(environment)  # noqa: TID251 - the child's environment
        _become(command, recorder_fd, watcher)
    return child


def _become(command: list[str], recorder_fd: int | None, watcher: int) -> NoReturn:
    """In the child: become the command."""
    try:
        _die_with(watcher)
        if recorder_fd is not None:
            os.set_inheritable(recorder_fd, True)  # noqa: FBT003 - Python's signature
            os.environ[FD_VARIABLE] = str(recorder_fd)  # noqa: TID251 - the child's environment
        for number in PASSED_ON:  # a shell's background job would inherit that it ignores SIGINT
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, AWAITED)
        os.execvp(command[0], command)  # noqa: S606 - the command that was asked for, no shell wanted
    except OSError as error:
        sys.stderr.write(f"watcher: {command[0]}: {error.strerror}\n")
        os._exit(EX_NOT_FOUND)


def _die_with(watcher: int) -> None:
    """Have the kernel kill this process when the watcher dies: nobody would look after its runs.

    Elsewhere than on Linux such an orphan lives on.
    """
    if sys.platform == "linux":
        import ctypes  # noqa: PLC0415 - only in the child, which forgets it with the next line but one

        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != watcher:
            os._exit(128 + signal.SIGKILL)


def _wait(child: int, *, is_patient: bool = True) -> tuple[int, bool]:
    """Pass signals on until the child has ended.

    An impatient wait passes nothing on, and ends the child with the alarm.

    Returns:
        The child's exit status, negative for a signal, and whether a stop was asked for.
    """
    is_stopped = False
    while True:
        number, is_known = _next_signal()
        is_stopped |= number in STOPS
        if number == signal.SIGCHLD:
            pid, status = os.waitpid(child, os.WNOHANG)
            if pid == child:
                return os.waitstatus_to_exitcode(status), is_stopped
        elif number == signal.SIGALRM:
            os.kill(child, signal.SIGKILL)
        elif is_patient and not is_known:
            os.kill(child, number)


def _next_signal() -> tuple[int, bool]:
    """A signal, and whether the child has it already: a terminal sends Ctrl-C to all its processes."""
    if sys.platform == "linux":
        info = signal.sigwaitinfo(AWAITED)
        return info.si_signo, info.si_code > 0 and info.si_signo != signal.SIGCHLD
    return signal.sigwait(AWAITED), False


def _nothing(*_: object) -> None:
    """Do nothing."""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
