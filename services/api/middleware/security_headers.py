"""Headers that keep browsers from guessing, framing, caching or sniffing."""

from collections.abc import Iterable

SECURITY_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
_ENCODED = tuple(
    (name.lower().encode(), value.encode()) for name, value in SECURITY_HEADERS.items()
)
"""As ASGI has them: encoding and looking for each with every answer takes longer than all else here."""
_NAMES = frozenset(name for name, _ in _ENCODED)


def with_security_headers(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """The headers, and of those above the ones that the answer does not set itself, as the docs page does."""
    found = list(headers)
    own = {name for name, _ in found} & _NAMES
    return (
        found + [header for header in _ENCODED if header[0] not in own]
        if own
        else [*found, *_ENCODED]
    )
