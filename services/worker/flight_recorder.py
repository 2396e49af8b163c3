"""Who was on the CPU: what a process that dies leaves behind for its watcher.

A few bytes of memory that watcher and worker share: the name under which the worker holds leases,
and the id of the run whose code its event loop is executing right now (run_marks.py). Whatever ends
the process (os._exit, SIGSEGV, the OOM killer), the bytes stay, and postmortem.py charges that run.
"""

import mmap
import os

FD_VARIABLE = "PENSTOCK_FLIGHT_RECORDER_FD"
"""How the watcher tells the worker where the shared memory is."""
SIZE = mmap.PAGESIZE
RUN = slice(0, 16)
NOBODY = bytes(16)
OWNER_LENGTH = 16
OWNER_AT = 17
LONGEST_OWNER = 255


class FlightRecorder:
    """The shared bytes, as the worker writes them and the watcher reads them."""

    def __init__(self, memory: "mmap.mmap | bytearray | None" = None) -> None:
        self.memory = bytearray(SIZE) if memory is None else memory
        self.on_cpu = NOBODY
        """Bytes of the run that is on the CPU, as last written here."""

    @classmethod
    def open(cls, fd: int) -> "FlightRecorder":
        """The recorder in a file of SIZE bytes."""
        return cls(mmap.mmap(fd, SIZE))

    @classmethod
    def of_this_process(cls) -> "FlightRecorder":
        """The one that the watcher shares with this process; without one, a recorder that nobody reads."""
        fd = os.environ.get(FD_VARIABLE)  # noqa: TID251 - no setting: the watcher's word to its child
        try:
            return cls.open(int(fd)) if fd else cls()
        except (
            OSError,
            ValueError,
        ):  # Celery restarts itself at SIGHUP, and closes its files before
            return cls()

    @property
    def owner(self) -> str | None:
        """Under which name the process holds leases; None before its first claim and after its goodbye."""
        length = self.memory[OWNER_LENGTH]
        return bytes(self.memory[OWNER_AT : OWNER_AT + length]).decode() or None

    @property
    def run_on_cpu(self) -> str | None:
        """The run whose code is being executed: its UUID as 32 hex digits."""
        run = bytes(self.memory[RUN])
        return None if run == NOBODY else run.hex()

    def begin(self, owner: str) -> None:
        """From now on the process holds leases under this name."""
        name = owner.encode()[:LONGEST_OWNER]
        self.memory[OWNER_AT : OWNER_AT + len(name)] = name
        self.memory[OWNER_LENGTH] = len(name)

    def say_goodbye(self) -> None:
        """The process holds no lease any more: its end concerns no run."""
        self.memory[OWNER_LENGTH] = 0

    def clear(self) -> None:
        """Make room for the next process."""
        self.say_goodbye()
        self.mark(NOBODY)

    def mark(self, run: bytes) -> None:
        """Note whose code is executed from now on."""
        self.on_cpu = self.memory[RUN] = run
