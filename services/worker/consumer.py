"""Celery's consumer, which ends the whole worker for two things that concern one message."""

import contextlib
from collections.abc import Callable
from typing import Any

from celery.worker.consumer import Consumer
from kombu.message import Message

MALFORMED = (AttributeError, KeyError, TypeError, ValueError)
"""What Celery's own code raises on a message that has not the shape of a task."""


class SturdyConsumer(Consumer):
    """Lives on where the runs of a process are worth more than a message."""

    def create_task_handler(self, *args: Any, **options: Any) -> Callable[[Message], None]:
        """Drop a malformed message; not acknowledged, it would come back and end each new worker."""
        handle = super().create_task_handler(*args, **options)

        def handle_safely(message: Message) -> None:
            try:
                handle(message)
            except MALFORMED as error:
                self.on_decode_error(message, error)

        return handle_safely

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        """Reconnect also if a message was not yet acknowledged when Redis went away.

        kombu 5.7 then tries to give it back over the connection that it has just closed, and raises
        "'NoneType' object has no attribute 'hostname'". What hints say is in the record anyway.
        """
        with contextlib.suppress(AttributeError):
            super().on_connection_error_after_connected(exc)
