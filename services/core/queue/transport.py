"""kombu's Redis transport, made to bear garbage and a Redis that refuses to write.

A worker holds hundreds of runs, and kombu 5.7 ends its process for a list item that is not JSON, a key
of another type or a write that Redis refuses. What is in Redis are hints (ADR 2): dropping one costs
time, so here nothing in Redis ends a process. ADR 11.
"""

import logging
from collections import Counter
from collections.abc import Callable
from queue import Empty
from typing import Any, TypeVar

import redis
from kombu import transport
from kombu.transport import TRANSPORT_ALIASES, virtual
from kombu.transport import redis as kombu_redis
from kombu.utils.json import dumps
from redis.exceptions import ResponseError

from services.core.clock import monotonic_s
from services.core.queue.envelope import (
    MAX_BROADCAST_BYTES,
    UNREADABLE,
    GarbageError,
    check_body,
    check_envelope,
    excerpt,
    read_envelope,
)

Result = TypeVar("Result")
# The stubs know half of these.
_KombuChannel: Any = kombu_redis.Channel
_KombuSentinelChannel: Any = kombu_redis.SentinelChannel
_KombuQoS: Any = kombu_redis.QoS
_Client: Any = redis.Redis
logger = logging.getLogger(__name__)

REFUSAL_LOG_INTERVAL_S = 30.0
"""Seconds between two log lines about what Redis refuses."""
SET_ASIDE_PREFIX = "garbage:"
"""Begins the new name of a key that was in the way."""
SET_ASIDE_FOR_S = 86_400
"""Seconds that such a key is kept, for somebody to look at."""
SET_ASIDE = """
local kind = redis.call('TYPE', KEYS[1])['ok']
if kind == 'none' or kind == ARGV[1] then return false end
redis.call('RENAME', KEYS[1], KEYS[2])
redis.call('EXPIRE', KEYS[2], ARGV[2])
return kind
"""

_dropped: Counter[str] = Counter()
"""Messages that this process has dropped, by where they came from."""


def register_transport() -> None:
    """Have kombu use this transport for redis://, rediss:// and sentinel://."""
    # Not by broker_transport: when kombu goes on to the next Sentinel it looks the scheme up again.
    TRANSPORT_ALIASES["redis"] = TRANSPORT_ALIASES["rediss"] = f"{__name__}:Transport"
    TRANSPORT_ALIASES["sentinel"] = f"{__name__}:SentinelTransport"
    # kombu remembers what it looked up; somebody may have connected before.
    for scheme in ("redis", "rediss", "sentinel"):
        vars(transport)["_transport_cache"].pop(scheme, None)


def log_dropped(source: str, raw: bytes | str, reason: object) -> None:
    """Tell that a message was dropped: whence, why, how long, how it begins, how many so far."""
    _dropped[source] += 1
    logger.warning(
        "dropped garbage from %s, number %d: %s (%d bytes: %r)",
        source,
        _dropped[source],
        reason,
        len(raw),
        excerpt(raw),
    )


class SiftingRedis(_Client):  # type: ignore[misc]  # see _Client
    """A client whose BRPOP answers with a message or with nothing."""

    def parse_response(self, connection: Any, command_name: Any, **options: Any) -> Any:
        """The answer; garbage becomes "nothing came", as after a BRPOP that timed out."""
        answer = super().parse_response(connection, command_name, **options)
        if command_name != "BRPOP" or not answer:
            return answer
        queue, raw = answer
        try:
            envelope = read_envelope(raw)
        except GarbageError as error:
            log_dropped(f"queue {queue.decode(errors='replace')}", raw, error)
            return None
        # Where it came from is where it goes back to, whatever it says of itself.
        envelope["properties"]["delivery_info"] = {
            "exchange": "",
            "routing_key": queue.decode(errors="replace"),
        }
        return queue, dumps(envelope)


class QoS(_KombuQoS):  # type: ignore[misc]  # see _KombuQoS
    """Notes unacknowledged messages in Redis as long as Redis takes the notes."""

    channel: Any

    def append(self, message: Any, delivery_tag: str) -> None:
        """Note a message that was taken; if only here, it is not delivered again after a crash."""
        try:
            self.channel.mending(super().append, message, delivery_tag)
        except ResponseError as error:
            self.channel.log_refusal("note a message", error)
            virtual.QoS.append(self, message, delivery_tag)

    def ack(self, delivery_tag: str) -> None:
        """Forget a message that was dealt with."""
        try:
            self.channel.mending(super().ack, delivery_tag)
        except ResponseError as error:
            self.channel.log_refusal("acknowledge a message", error)
            virtual.QoS.ack(self, delivery_tag)

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:  # noqa: FBT001, FBT002 - kombu's signature
        """Forget a message, or put it back."""
        try:
            self.channel.mending(super().reject, delivery_tag, requeue=requeue)
        except ResponseError as error:
            self.channel.log_refusal("put a message back", error)
            virtual.QoS.ack(self, delivery_tag)

    def restore_visible(self, *args: Any, **options: Any) -> None:
        """Put back what dead processes left unacknowledged, if Redis lets us."""
        try:
            self.channel.mending(super().restore_visible, *args, **options)
        except ResponseError as error:
            self.channel.log_refusal("put old messages back", error)

    def restore_by_tag(self, tag: Any, client: Any = None, leftmost: bool = False) -> None:  # noqa: FBT001, FBT002 - kombu's signature
        """Put one message back; a note that nobody can read is dropped, or no other would be restored."""
        try:
            super().restore_by_tag(tag, client=client, leftmost=leftmost)
        except UNREADABLE as error:
            if isinstance(error, KeyError):  # kombu's sign of a broken connection
                raise
            log_dropped("the unacknowledged messages", str(tag), type(error).__name__)
            self._remove_from_indices(tag).execute()


class SturdyChannel(_KombuChannel):  # type: ignore[misc]  # see _KombuChannel
    """A channel on which nothing that Redis holds or refuses ends a process."""

    QoS = QoS

    def __init__(self, *args: Any, **options: Any) -> None:
        self._refusals_logged_at_s: dict[str, float] = {}
        # A producer need not have declared the queue that it uses.
        self._used = ""
        super().__init__(*args, **options)

    # --- keys of another type -----------------------------------------------------------------
    def mending(self, operation: Callable[..., Result], *args: Any, **options: Any) -> Result:
        """Do it, and do it again if a key of another type was in the way.

        Raises:
            ResponseError: Redis refuses it for another reason.
        """
        try:
            return operation(*args, **options)
        except ResponseError as error:
            if "WRONGTYPE" not in str(error):
                raise
            self._set_garbage_aside()
            return operation(*args, **options)

    def _set_garbage_aside(self) -> None:
        """Rename keys of ours that are of another type: a stranger's, and nothing works with them."""
        with self.conn_or_acquire() as client:
            set_aside = client.register_script(SET_ASIDE)
            for key, kind in self._kinds_of_keys():
                aside = SET_ASIDE_PREFIX + key
                if found := set_aside(keys=[key, aside], args=[kind, SET_ASIDE_FOR_S]):
                    logger.error(
                        "key %s is a %s, not a %s: renamed to %s", key, found.decode(), kind, aside
                    )

    def _kinds_of_keys(self) -> list[tuple[str, str]]:
        """The keys that this channel uses, and of which type they have to be."""
        queues = {*self.active_queues, *self.state.queue_index, self._used} - {""}
        exchanges = set(self.state.exchanges)
        return [
            *((queue, "list") for queue in queues),
            (self.unacked_key, "hash"),
            (self.unacked_index_key, "zset"),
            (self.keyprefix_binding_deadlines, "zset"),
            *((self.keyprefix_queue % exchange, "set") for exchange in exchanges),
            *((self.keyprefix_binding_permanent % exchange, "set") for exchange in exchanges),
        ]

    # --- what Redis refuses -------------------------------------------------------------------
    def log_refusal(self, what: str, error: ResponseError) -> None:
        """Tell that Redis does not let us, twice a minute at most."""
        last_s = self._refusals_logged_at_s.get(what)
        if last_s is None or monotonic_s() - last_s > REFUSAL_LOG_INTERVAL_S:
            self._refusals_logged_at_s[what] = monotonic_s()
            logger.warning("cannot %s in Redis, going on without: %s", what, error)

    def _queue_bind(self, exchange: str, routing_key: str, pattern: str, queue: str) -> None:
        """Tell others of a queue. Only answers to remote control are routed by this."""
        try:
            self.mending(super()._queue_bind, exchange, routing_key, pattern, queue)
        except ResponseError as error:
            self.log_refusal("bind queues", error)

    def maybe_refresh_binding_expiry(self) -> None:
        """Keep bindings of passing queues alive, if Redis lets us."""
        try:
            self.mending(super().maybe_refresh_binding_expiry)
        except ResponseError as error:
            self.log_refusal("refresh bindings", error)

    def get_table(self, exchange: str) -> Any:
        """Where an exchange's messages go."""
        return self.mending(super().get_table, exchange)

    def depth(self, queue: str) -> int:
        """Messages that wait in a queue."""
        return int(self._size(queue))

    def _size(self, queue: str) -> Any:
        self._used = queue
        return self.mending(super()._size, queue)

    def _put(self, queue: str, message: Any, **options: Any) -> None:
        self._used = queue
        self.mending(super()._put, queue, message, **options)

    # --- messages -----------------------------------------------------------------------------
    def put_back(self, message: Any, **headers: object) -> None:
        """Put a message at the end of the queue from which it came, with more headers."""
        payload = message.serializable()
        payload["headers"].update(headers)
        self._put(message.delivery_info["routing_key"], payload)

    def _get_client(self) -> type[redis.Redis]:
        super()._get_client()  # checks redis-py's version
        return SiftingRedis

    def _brpop_read(self, **options: Any) -> Any:
        try:
            return super()._brpop_read(**options)
        except ResponseError as error:
            if "WRONGTYPE" not in str(error):
                raise
            self._set_garbage_aside()
            raise Empty from error

    def _do_restore_message(
        self,
        payload: Any,
        exchange: Any,
        routing_key: Any,
        pipe: Any,
        leftmost: bool = False,  # noqa: FBT001, FBT002 - kombu's signature
    ) -> None:
        try:
            check_envelope(payload)
            if not isinstance(exchange, str) or not isinstance(routing_key, str):
                raise GarbageError("no queue")  # noqa: TRY301 - all reasons are told in one place
        except GarbageError as error:
            log_dropped("the unacknowledged messages", str(payload), error)
        else:
            super()._do_restore_message(payload, exchange, routing_key, pipe, leftmost)

    # --- messages to all: remote control, events ----------------------------------------------
    def _handle_message(self, client: Any, r: Any) -> Any:
        payload = super()._handle_message(client, r)
        raw = payload["data"]
        if isinstance(raw, bytes):  # confirmations of subscriptions have numbers
            try:
                check_body(read_envelope(raw, max_bytes=MAX_BROADCAST_BYTES))
            except GarbageError as error:
                log_dropped(f"broadcast {payload['channel'].decode(errors='replace')}", raw, error)
                payload["data"] = None
        return payload


class Channel(SturdyChannel):
    """On one Redis."""


class SentinelChannel(SturdyChannel, _KombuSentinelChannel):  # type: ignore[misc]  # see there
    """On the Redis that Sentinels name."""


class Transport(kombu_redis.Transport):
    """redis:// and rediss://."""

    Channel = Channel


class SentinelTransport(kombu_redis.SentinelTransport):
    """sentinel://."""

    Channel = SentinelChannel
