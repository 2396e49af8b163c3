"""Keys that somebody was let in with: whose each is, which never changes, unlike whether it is still valid."""

from dataclasses import dataclass
from hmac import compare_digest
from typing import Final
from uuid import UUID

from services.core.runs.keys import parse_key
from services.core.runs.models import ApiKey

_MAX_KEYS: Final = 10_000


@dataclass(frozen=True, slots=True)
class _Known:
    id: UUID
    key_hash: bytes


class KnownKeys:
    """Spares the question whose a key is to those whose next statement checks whether it is valid.

    One per process. Nobody is let in by what is here alone.
    """

    def __init__(self) -> None:
        self._by_prefix: dict[str, _Known] = {}

    def note(self, key: ApiKey) -> None:
        """Remember a key that was right and valid just now."""
        if len(self._by_prefix) >= _MAX_KEYS:
            self._by_prefix.clear()
        self._by_prefix[key.prefix] = _Known(key.id, key.key_hash)

    def forget(self, key_id: UUID) -> None:
        """Ask again from now on."""
        kept = {prefix: known for prefix, known in self._by_prefix.items() if known.id != key_id}
        self._by_prefix = kept

    def find(self, authorization: str) -> UUID | None:
        """Whose key an Authorization header has, if it is known here; the record must still say whether it is valid."""
        parsed = parse_bearer(authorization)
        if parsed is None:
            return None
        prefix, key_hash = parsed
        known = self._by_prefix.get(prefix)
        return known.id if known and compare_digest(known.key_hash, key_hash) else None


def parse_bearer(authorization: str) -> tuple[str, bytes] | None:
    """The prefix and the hash of the key in an Authorization header, or None if it has none."""
    scheme, _, text = authorization.partition(" ")
    return parse_key(text.strip()) if scheme.lower() == "bearer" else None
