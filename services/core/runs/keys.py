"""API keys: `psk_<prefix>_<secret>`. The record keeps the prefix and a hash of the whole."""

import re
import secrets
from hashlib import sha256

KEY_PATTERN = re.compile(r"psk_([0-9a-f]{12})_[A-Za-z0-9_-]{43}")
PREFIX_BYTES = 6
SECRET_BYTES = 32


def generate_key() -> str:
    """A new key, with 256 random bits."""
    return f"psk_{secrets.token_hex(PREFIX_BYTES)}_{secrets.token_urlsafe(SECRET_BYTES)}"


def parse_key(text: str) -> tuple[str, bytes] | None:
    """The prefix of a key and the SHA-256 of the whole, or None if it does not have a key's form.

    SHA-256 without salt or stretching is enough: a key is random, no password, so it cannot be
    guessed.
    """
    match = KEY_PATTERN.fullmatch(text)
    if match is None:
        return None
    return match[1], sha256(text.encode()).digest()
