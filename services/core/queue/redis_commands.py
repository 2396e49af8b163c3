"""Redis commands that kombu has no words for, on a producer's connection."""

from typing import Any

from kombu import Producer

from services.core.clock import monotonic_s


def queue_depth(producer: Producer, queue: str) -> int:
    """Messages that wait in a queue; a key of another type that is in its way is set aside first."""
    channel: Any = producer.channel  # the stubs do not know Redis channels
    return int(channel.depth(queue))


def ping_s(producer: Producer) -> float:
    """Seconds that one PING takes on an open connection."""
    channel: Any = producer.channel
    with channel.conn_or_acquire() as client:
        client.ping()
        started_s = monotonic_s()
        client.ping()
        return monotonic_s() - started_s
