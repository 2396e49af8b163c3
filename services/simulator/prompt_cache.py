"""Prompt caching as Claude's API does it: marked prefixes, kept for minutes, longer with each use."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice
from typing import Any

from services.core.clock import utc_now
from services.simulator.prefixes import Prefix, read_prefixes
from services.simulator.schemas import CountTokensRequest

MIN_TOKENS = 1024
"""Shorter prefixes are not cached, marked or not. The API's minimum depends on the model: 512 to 4,096."""
LOOKBACK_BLOCKS = 20
"""So many blocks before a mark are searched for a prefix that is cached."""
TTL_S = {"5m": 300, "1h": 3600}
MAX_ENTRIES = 10_000


@dataclass(frozen=True, slots=True)
class CacheUse:
    """What of a prompt is read from the cache, what is written to it, and what is neither."""

    input_tokens: int
    read_tokens: int = 0
    written_5m_tokens: int = 0
    written_1h_tokens: int = 0
    model: str = ""
    prefixes: tuple[Prefix, ...] = ()
    """What is cached from the moment that the answer begins."""
    read_key: bytes | None = None

    @property
    def written_tokens(self) -> int:
        """For either time."""
        return self.written_5m_tokens + self.written_1h_tokens

    @property
    def limited_tokens(self) -> int:
        """What counts against the limit of input tokens."""
        return self.input_tokens + self.written_tokens


@dataclass(slots=True)
class Entry:
    """A prefix that is cached."""

    model: str
    tokens: int
    ttl_s: int
    expires_at: datetime
    reads: int = 0


class PromptCache:
    """The prefixes that are cached."""

    def __init__(self, *, clock: Callable[[], datetime] = utc_now) -> None:
        """Start empty."""
        self._entries: dict[bytes, Entry] = {}
        self._clock = clock

    def look_up(self, request: CountTokensRequest) -> CacheUse:
        """Say what the cache does for a request; nothing changes before begin()."""
        prefixes = read_prefixes(request)
        marked = [
            number
            for number, prefix in enumerate(prefixes)
            if prefix.ttl and prefix.tokens >= MIN_TOKENS
        ]
        found = self._longest(prefixes, marked)
        position = read_tokens = prefixes[found].tokens if found else 0
        written = {"5m": 0, "1h": 0}
        for prefix in (prefixes[number] for number in marked if number > found):
            written[prefix.ttl or "5m"] += prefix.tokens - position
            position = prefix.tokens
        return CacheUse(
            input_tokens=prefixes[-1].tokens - position,
            read_tokens=read_tokens,
            written_5m_tokens=written["5m"],
            written_1h_tokens=written["1h"],
            model=request.model,
            prefixes=tuple(prefixes[number] for number in marked),
            read_key=prefixes[found].key if found else None,
        )

    def begin(self, use: CacheUse) -> None:
        """The answer begins: what it read lives on, and what it wrote can be read from now on."""
        now = self._clock()
        read = self._entries.get(use.read_key) if use.read_key else None
        if read is not None:
            read.reads += 1
            read.expires_at = now + timedelta(seconds=read.ttl_s)
        for prefix in use.prefixes:
            self._keep(prefix, use.model, now)
        self._shrink(now)

    def clear(self) -> None:
        """Forget all prefixes."""
        self._entries.clear()

    def state(self) -> list[dict[str, Any]]:
        """What is cached now."""
        now = self._clock()
        return [
            {
                "prefix_sha256": key.hex(),
                "model": entry.model,
                "tokens": entry.tokens,
                "ttl_s": entry.ttl_s,
                "expires_at": entry.expires_at,
                "reads": entry.reads,
            }
            for key, entry in self._entries.items()
            if entry.expires_at > now
        ]

    def _longest(self, prefixes: Sequence[Prefix], marked: Sequence[int]) -> int:
        """The number of the longest prefix that is cached; 0, which never is, if there is none."""
        now = self._clock()
        for mark in reversed(marked):
            for number in range(mark, max(0, mark - LOOKBACK_BLOCKS), -1):
                entry = self._entries.get(prefixes[number].key)
                if entry is not None and entry.expires_at > now:
                    return number
        return 0

    def _keep(self, prefix: Prefix, model: str, now: datetime) -> None:
        ttl_s = TTL_S[prefix.ttl or "5m"]
        known = self._entries.get(prefix.key)
        reads = known.reads if known and known.expires_at > now else 0
        expires_at = now + timedelta(seconds=ttl_s)
        self._entries[prefix.key] = Entry(model, prefix.tokens, ttl_s, expires_at, reads)

    def _shrink(self, now: datetime) -> None:
        """Drop what has expired, and the oldest, once there is too much."""
        if len(self._entries) <= MAX_ENTRIES:
            return
        live = {key: entry for key, entry in self._entries.items() if entry.expires_at > now}
        half = max(0, len(live) - MAX_ENTRIES // 2)
        self._entries = dict(islice(live.items(), half, None))
