"""Celery's consumer, made to bear what concerns one message only, and a Redis that comes and goes.

Celery ends the whole worker for much of this, and the runs of a process are worth more. ADR 11.
"""

import contextlib
import logging
import time
from collections.abc import Callable
from typing import Any

from celery.worker.consumer import Consumer
from celery.worker.state import maybe_shutdown
from kombu import Connection
from kombu.asynchronous.timer import Entry
from kombu.exceptions import KombuError
from kombu.message import Message
from redis.exceptions import ResponseError

from services.core.clock import monotonic_s
from services.core.queue.envelope import PUT_BACKS, UNREADABLE, GarbageError, check_task
from services.core.queue.transport import log_dropped

logger = logging.getLogger(__name__)

PUT_BACK_AFTER_S = 1.0
"""Seconds that a message with an unknown task waits here before it is put back."""
MAX_PUT_BACKS = 60
"""Times that a message is put back before it is dropped: by then no newer worker is there to take it."""
RECONNECT_PAUSE_S = 2
"""Longest wait, in seconds, between two tries to connect; kombu's would grow to 30."""
OUTAGE_LOG_INTERVAL_S = 30.0
"""Seconds between two log lines about a Redis that is away."""


class SturdyConsumer(Consumer):
    """Lives on where the runs of a process are worth more than a message."""

    # The stubs leave these out.
    strategies: dict[str, Callable[..., None]]
    qos: Any

    def __init__(self, *args: Any, **options: Any) -> None:
        self._put_backs: set[Entry] = set()
        self._outage_logged_at_s = -OUTAGE_LOG_INTERVAL_S
        super().__init__(*args, **options)

    # --- messages -----------------------------------------------------------------------------
    def create_task_handler(self, *args: Any, **options: Any) -> Callable[[Message], None]:
        """Take tasks of ours, put back what a newer version may know, and drop the rest.

        Not acknowledged, a dropped message would come back and harm each new worker.
        """
        handle = super().create_task_handler(*args, **options)

        def receive(message: Message) -> None:
            try:
                headers = check_task(message.headers, message.decode())
                if headers.task in self.strategies:
                    message.headers = headers.known()
                    handle(message)
                else:
                    self._put_back_later(message, headers.task, headers.put_backs + 1)
            except (*UNREADABLE, KombuError) as error:
                self.on_decode_error(message, error)

        return receive

    def on_decode_error(self, message: Message, exc: Exception) -> None:
        """Drop a message."""
        queue = (message.delivery_info or {}).get("routing_key") or "a broadcast"
        reason = exc if isinstance(exc, GarbageError) else type(exc).__name__
        log_dropped(f"queue {queue}", message.body or "", reason)
        if not message.acknowledged:
            message.ack()

    def on_invalid_task(self, body: object, message: Message, exc: Exception) -> None:  # noqa: ARG002 - Celery's signature
        """Drop a task that Celery cannot make sense of."""
        self.on_decode_error(message, exc)

    # --- tasks of a newer version -------------------------------------------------------------
    def _put_back_later(self, message: Message, task: str, count: int) -> None:
        """Put a message back in a while: it may be for the workers of a newer version.

        Raises:
            GarbageError: It was put back for a minute, and nobody took it.
        """
        if count > MAX_PUT_BACKS:
            raise GarbageError(f"no worker knows the task {task}")
        if count == 1:
            logger.warning("task %s is unknown here, left to others: message put back", task)
        self.qos.increment_eventually()  # meanwhile others are taken in its place
        entry = self.timer.call_after(PUT_BACK_AFTER_S, self._put_back, (message, count))
        self._put_backs.add(entry)
        self._put_backs = {entry for entry in self._put_backs if not entry.canceled}

    def _put_back(self, message: Any, count: int) -> None:
        self.qos.decrement_eventually()
        try:
            message.channel.put_back(message, **{PUT_BACKS: count})
        except ResponseError as error:
            message.channel.log_refusal("put a message back", error)
        message.ack()

    # --- connections --------------------------------------------------------------------------
    def ensure_connected(self, conn: Connection) -> Connection:
        """Connect, however long it takes, and within seconds of Redis' return."""
        connected = conn.ensure_connection(
            self._log_outage,
            max_retries=None,  # type: ignore[arg-type]  # the stubs do not know "for ever"
            interval_start=1,
            interval_step=1,
            interval_max=RECONNECT_PAUSE_S,
            callback=maybe_shutdown,
        )
        self.first_connection_attempt = False
        self._outage_logged_at_s = -OUTAGE_LOG_INTERVAL_S
        return connected

    def on_connection_error_before_connected(self, exc: Exception) -> None:
        """Try again."""
        super().on_connection_error_before_connected(exc)
        self._pause_after(exc)

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        """Reconnect also if a message was not yet acknowledged when Redis went away.

        kombu 5.7 then tries to give it back over the connection that it has just closed, and raises
        "'NoneType' object has no attribute 'hostname'". What hints say is in the record anyway.
        """
        with contextlib.suppress(AttributeError):
            super().on_connection_error_after_connected(exc)
        self._pause_after(exc)

    def on_close(self) -> None:
        """Forget what was to be put back: closing the channel has done so."""
        for entry in self._put_backs:
            entry.cancel()
        self._put_backs.clear()
        super().on_close()

    def _log_outage(self, error: Exception, interval_s: float) -> None:
        if monotonic_s() - self._outage_logged_at_s > OUTAGE_LOG_INTERVAL_S:
            self._outage_logged_at_s = monotonic_s()
            logger.error("no connection to Redis, trying every %g s: %s", interval_s, error)

    def _pause_after(self, error: Exception) -> None:
        """A Redis that answers, but refuses what a worker needs, would be asked without a pause."""
        if isinstance(error, ResponseError):
            for _ in range(RECONNECT_PAUSE_S):
                maybe_shutdown()
                time.sleep(1)
