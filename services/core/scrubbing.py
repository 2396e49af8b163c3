"""Takes secrets out of free text: log lines, error messages, span attributes."""

import re
from typing import Final

REDACTED: Final = "[redacted]"

_SECRETS: Final = (
    r"sk-ant-[\w-]+",  # Anthropic
    r"(?<=psk_)[0-9A-Za-z]+_[\w-]+",  # ours: psk_<prefix>_<secret>
    r"(?<=pylf_)v\d+_\w+",  # Logfire
    r"(?<=\bBearer )[\w.~+/=-]{6,}",
    r"(?<=\bBasic )[\w+/=-]{6,}",
    r"(?<=://)[^\s/@\"']*:[^\s/@\"']+(?=@)",  # the login of a URL, as in a broker's error message
)

_MARKS: Final = ("sk-ant-", "psk_", "pylf_", "bearer ", "basic ", "://")
"""Each secret has one of these before it or in it."""
_SECRET: Final = re.compile("|".join(_SECRETS), re.IGNORECASE)


def may_hold_secret(text: str) -> bool:
    """Whether the patterns are worth looking for; looking costs a tenth of them."""
    folded = text.casefold()
    return any(mark in folded for mark in _MARKS)


def scrub(text: str) -> str:
    """The text without keys, tokens and passwords of the kinds that Penstock handles."""
    return _SECRET.sub(REDACTED, text) if may_hold_secret(text) else text
