"""Sends items to Redis from a background thread, so that no caller ever waits for it."""

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Generic, TypeVar

from services.core.clock import monotonic_s

Item = TypeVar("Item")
logger = logging.getLogger(__name__)

CAPACITY = 10_000
"""Items that may wait for the thread."""
PAUSE_AFTER_ERROR_S = 0.5
"""Seconds that the thread waits before it tries Redis again."""
LONGEST_REST_S = 0.2
"""Seconds between two batches at most, however long the first one took."""


class Outbox(Generic[Item]):
    """A bounded queue and the thread that empties it, in batches and best effort.

    A batch that cannot be sent is dropped: what goes through here is told again (hints) or only
    nice to have (events). An outage is logged once when it begins and once when it ends.
    """

    def __init__(
        self,
        name: str,
        send: Callable[[list[Item]], float | None],
        *,
        capacity: int = CAPACITY,
        busy_share: float = 1.0,
        on_failure: Callable[[], None] = lambda: None,
    ) -> None:
        """Start nothing yet.

        Args:
            name: Of the thread, and in logs.
            send: Takes everything that waits; may block and raise. It may say how many seconds nobody misses the rest.
            capacity: Items that may wait; further ones are refused.
            busy_share: Part of its time that the thread may take, at most 1. What comes alone is sent at once; under
                load items gather, instead of keeping the thread, and with it the interpreter, busy with small batches.
            on_failure: Called in the thread after each batch that could not be sent.
        """
        self._name = name
        self._send = send
        self._capacity = capacity
        self._busy_share = busy_share
        self._rests_until_s = float("-inf")
        self._on_failure = on_failure
        self._items: list[Item] = []
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._flushing: Future[None] | None = None
        self._is_failing = False
        self._threads = ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)

    def start(self) -> None:
        """Start the thread with an empty batch, so that `send` can connect."""
        self._submit()

    def put(self, item: Item) -> bool:
        """Queue an item and return at once; False if it was refused."""
        with self._lock:
            if self._closing.is_set() or len(self._items) >= self._capacity:
                return False
            self._items.append(item)
            if len(self._items) == 1:
                self._submit()
        return True

    def close(self, timeout_s: float) -> None:
        """Refuse further items and send what waits, within `timeout_s` seconds."""
        with self._lock:
            self._closing.set()
        if self._flushing is not None:
            wait([self._flushing], timeout_s)
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _submit(self) -> None:
        self._flushing = self._threads.submit(self._flush)
        self._flushing.add_done_callback(self._note)

    def _flush(self) -> None:
        if self._is_failing:
            self._closing.wait(PAUSE_AFTER_ERROR_S)
        self._closing.wait(max(0.0, self._rests_until_s - monotonic_s()))
        with self._lock:
            items, self._items = self._items, []
        began_s = monotonic_s()
        unmissed_s = self._send(items) or 0.0
        ended_s = monotonic_s()
        rest_s = max(unmissed_s, (ended_s - began_s) * (1 / self._busy_share - 1))
        self._rests_until_s = ended_s + min(LONGEST_REST_S, rest_s)

    def _note(self, flush: "Future[None]") -> None:
        """Log the beginning and the end of an outage."""
        error = None if flush.cancelled() else flush.exception()
        if error is not None and not self._is_failing:
            logger.warning(
                "%s: nothing goes through (%s: %s)", self._name, type(error).__name__, error
            )
        if error is None and self._is_failing:
            logger.info("%s: things go through again", self._name)
        self._is_failing = error is not None
        if self._is_failing:
            self._on_failure()
