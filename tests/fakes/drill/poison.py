"""The ways in which a step takes its process along."""

import ctypes
import os
import signal
import time
from collections.abc import Callable

from tests.fakes.drill.schemas import DrillInput, Poison

CHUNK_BYTES = 64 * 1024 * 1024
MOST_BYTES = 48 * CHUNK_BYTES
"""3 GB: more than a container may have, and less than hurts a machine where nothing else ends the process."""


def take(plan: DrillInput) -> None:
    """Do what the plan's poison does."""
    if plan.poison is Poison.BLOCK:
        time.sleep(plan.block_s)
    elif plan.poison is not None:
        DEADLY[plan.poison]()


def _exit() -> None:
    os._exit(1)


def _sigkill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _sigsegv() -> None:
    ctypes.string_at(0)


def _memory() -> None:
    """Use memory until the container's limit; where there is none, end as the kernel would end it."""
    held = []
    while len(held) * CHUNK_BYTES < MOST_BYTES:
        held.append(b"\x01" * CHUNK_BYTES)
    _sigkill()


def _system_exit() -> None:
    raise SystemExit(1)


DEADLY: dict[Poison, Callable[[], None]] = {
    Poison.EXIT: _exit,
    Poison.SIGKILL: _sigkill,
    Poison.SIGSEGV: _sigsegv,
    Poison.MEMORY: _memory,
    Poison.SYSTEM_EXIT: _system_exit,
}
