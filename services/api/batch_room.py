"""How many batches one process takes in at once: each may hold a body of many megabytes, and a connection."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from services.api.errors import TooBusyError

MAX_AT_ONCE: Final = 4
"""Batches from the first byte of the body to the commit; with the largest bodies some 300 MB."""


class BatchRoom:
    """Counts them; one per process. Who finds no room is told to come back: to wait here would keep a body, too."""

    def __init__(self) -> None:
        self._taken = 0

    @contextmanager
    def take(self) -> Iterator[None]:
        """Take a place for one batch.

        Raises:
            TooBusyError: There is none.
        """
        if self._taken >= MAX_AT_ONCE:
            raise TooBusyError
        self._taken += 1
        try:
            yield
        finally:
            self._taken -= 1
