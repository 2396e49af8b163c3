"""Secrets do not survive in free text, and other text does."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.core.scrubbing import REDACTED, scrub

HEX = st.text("0123456789abcdef", min_size=12, max_size=12)
URL_SAFE = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


@given(prefix=HEX, secret=st.text(URL_SAFE, min_size=43, max_size=43))
def test_our_own_keys_are_removed(prefix: str, secret: str) -> None:
    """Every key that Penstock makes is recognised, wherever it stands."""
    text = scrub(f'{{"key":"psk_{prefix}_{secret}"}}')

    assert text == f'{{"key":"psk_{REDACTED}"}}'


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("key sk-ant-api03-Ab_c-9 refused", f"key {REDACTED} refused"),
        ("Authorization: Bearer abc.DEF-123==", f"Authorization: Bearer {REDACTED}"),
        ("authorization: bearer abcdefgh", f"authorization: bearer {REDACTED}"),
        ("Authorization: Basic dXNlcjpwYXNz", f"Authorization: Basic {REDACTED}"),
        ("token pylf_v1_us_abcdef", f"token pylf_{REDACTED}"),
        (
            "cannot reach redis://:p%2Fw@redis:6379/0",
            f"cannot reach redis://{REDACTED}@redis:6379/0",
        ),
        (
            "postgresql+asyncpg://penstock:pw@db/penstock; redis://u:p@r/0",
            f"postgresql+asyncpg://{REDACTED}@db/penstock; redis://{REDACTED}@r/0",
        ),
    ],
)
def test_keys_and_passwords_of_others_are_removed(text: str, clean: str) -> None:
    """Keys of Anthropic and Logfire, credentials in headers and logins in URLs are recognised."""
    assert scrub(text) == clean


@pytest.mark.parametrize(
    "text",
    [
        "GET http://simulator:8080/samples/a.html?b=c@d",
        "run 019a3f20-0000-7000-8000-000000000000 took 3.2 s",
        "write to someone@example.org at 10:30",
        "the bearer of bad news",
        "redis://127.0.0.1:6379/0",
    ],
)
def test_other_text_stays(text: str) -> None:
    """Addresses, ids and prose are not mistaken for secrets."""
    assert scrub(text) == text
