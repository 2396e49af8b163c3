"""The parent's side of page_text: one child process, restarted whenever a page broke it."""

import asyncio
import os
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import IO, cast

from services.core.errors import StepInputError
from services.pipelines.frames import read_frame, write_frames

COMMAND = (sys.executable, "-P", "-m", "services.pipelines.page_text")
START_LIMIT_S = 60.0
"""Seconds for the child's imports on a busy machine."""
BUSY_FACTOR = 4
"""Seconds on the clock for each second of processor time, on a busy machine."""
Child = subprocess.Popen[bytes]


class PageExtractor:
    """Extracts pages one after another; the child starts with the first page."""

    def __init__(self, *, cpu_limit_s: float = 5.0) -> None:
        """Make an extractor.

        Args:
            cpu_limit_s: Seconds of processor time for one page; a large honest one takes about one.
        """
        self._cpu_limit_s = cpu_limit_s
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="page-text")
        self._children: list[Child] = []
        self._finalizer = weakref.finalize(self, _end, self._children)

    async def extract(self, raw: bytes, charset: str | None) -> tuple[str, str]:
        """Title and text of an HTML page; both empty if it holds none.

        Raises:
            StepInputError: The page takes too much time or memory.
        """
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, self._extract, raw, charset or "")

    def close(self) -> None:
        """End the child."""
        self._thread.shutdown(wait=False, cancel_futures=True)
        self._finalizer()

    def _extract(self, raw: bytes, charset: str) -> tuple[str, str]:
        try:
            child = self._running_child()
            with _killed_after(child, BUSY_FACTOR * self._cpu_limit_s):
                write_frames(_requests(child), charset.encode(), raw)
                answers = _answers(child)
                return read_frame(answers).decode(), read_frame(answers).decode()
        except (EOFError, OSError) as error:
            _end(self._children)
            raise StepInputError(
                "the page cannot be read: it takes too much time or memory"
            ) from error

    def _running_child(self) -> Child:
        if not self._children or self._children[0].poll() is not None:
            _end(self._children)
            self._children.append(_start(self._cpu_limit_s))
            with _killed_after(self._children[0], START_LIMIT_S):
                read_frame(_answers(self._children[0]))
        return self._children[0]


def _start(cpu_limit_s: float) -> Child:
    return subprocess.Popen(  # noqa: S603 - a fixed command
        (*COMMAND, str(cpu_limit_s)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={"PYTHONPATH": os.pathsep.join(path or "." for path in sys.path)},
        # A Ctrl-C in the terminal is for the parent, which ends the child itself.
        start_new_session=True,
    )


@contextmanager
def _killed_after(child: Child, limit_s: float) -> Iterator[None]:
    timer = threading.Timer(limit_s, child.kill)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _requests(child: Child) -> IO[bytes]:
    return cast("IO[bytes]", child.stdin)


def _answers(child: Child) -> IO[bytes]:
    return cast("IO[bytes]", child.stdout)


def _end(children: list[Child]) -> None:
    while children:
        child = children.pop()
        child.kill()
        child.wait()
        _answers(child).close()
        with suppress(OSError):  # a request that it never took
            _requests(child).close()
