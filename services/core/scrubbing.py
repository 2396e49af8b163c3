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

_NAMES: Final = (
    r"passw|secret|auth(?!ors?\b)|credential|(?:private|api)[._ -]?key|session|cookie|csrf|xsrf|jwt"
)

# Nothing is looked for in a text without any of these: that takes a tenth of the time of the patterns.
_MARKS: Final = ("sk-ant-", "psk_", "pylf_", "bearer ", "basic ", "://")
_SPAN_MARKS: Final = (
    *_MARKS,
    "passw",
    "secret",
    "auth",
    "credential",
    "key",
    "session",
    "cookie",
    "srf",
    "jwt",
)
_SECRET: Final = re.compile("|".join(_SECRETS), re.IGNORECASE)
_NAME: Final = re.compile(_NAMES, re.IGNORECASE)


def may_hold_secret(names_and_values: str) -> bool:
    """Whether it is worth looking at them one by one."""
    folded = names_and_values.casefold()
    return any(mark in folded for mark in _SPAN_MARKS)


def names_secret(name: str) -> bool:
    """Whether a value of this name is secret, whatever it looks like."""
    return _NAME.search(name) is not None


def scrub(text: str) -> str:
    """The text without keys, tokens and passwords of the kinds that Penstock handles."""
    folded = text.casefold()
    for mark in _MARKS:  # any() would make a generator for each text
        if mark in folded:
            return _SECRET.sub(REDACTED, text)
    return text
