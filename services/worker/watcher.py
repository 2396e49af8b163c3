"""Starts a worker, and sees to its runs if it dies: `python -m services.worker.watcher celery ...`.

No process can report its own SIGKILL. So this tiny parent shares a flight recorder with the worker
and passes signals on to it. When the worker is gone without a goodbye, postmortem.py gives its runs
back and charges the one that was on the CPU. Then the watcher ends as the worker ended: starting it
again is the container's business.

It waits beside the worker for all its life, so it imports next to nothing.
"""

import os
import signal
import sys
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
POSTMORTEM_TIMEOUT_S = 10
"""Seconds that giving runs back may take; after that their leases lapse."""
POSTMORTEM_ENVIRONMENT = {"PYDANTIC_DISABLE_PLUGINS": "__all__"}
"""Pydantic would import Logfire, which nothing there uses: a fifth of the time."""
PR_SET_PDEATHSIG = 1
EX_NOT_FOUND = 127
"""Exit status of a command that does not exist, as a shell has it."""


def main(command: list[str]) -> int:
    """Run the command to its end; its exit status, or 128 + the signal that ended it."""
    signal.pthread_sigmask(signal.SIG_BLOCK, AWAITED)
    signal.signal(signal.SIGCHLD, _nothing)  # POSIX may drop an ignored signal, also a blocked one
    fd = _open_shared_memory()
    recorder = FlightRecorder.open(fd)
    status = _wait(_start(command, recorder_fd=fd))
    if owner := recorder.owner:
        signal.alarm(POSTMORTEM_TIMEOUT_S)
        os.environ.update(POSTMORTEM_ENVIRONMENT)  # noqa: TID251 - the child's environment
        run = recorder.run_on_cpu
        command = postmortem_command(owner, run_on_cpu=run, how=_describe_end(status))
        _wait(_start(command), is_patient=False)
    return status if status >= 0 else 128 - status


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


def _start(command: list[str], *, recorder_fd: int | None = None) -> int:
    """Start a command; its process id."""
    watcher = os.getpid()
    child = os.fork()
    if child == 0:
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


def _wait(child: int, *, is_patient: bool = True) -> int:
    """Pass signals on until the child has ended; its exit status, negative for a signal.

    An impatient wait passes nothing on, and ends the child with the alarm.
    """
    while True:
        number, is_known = _next_signal()
        if number == signal.SIGCHLD:
            pid, status = os.waitpid(child, os.WNOHANG)
            if pid == child:
                return os.waitstatus_to_exitcode(status)
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
