"""API keys: their form, and what the record keeps of them."""

from hashlib import sha256

import pytest

from services.core.runs.keys import generate_key, parse_key


def test_a_generated_key_parses_to_its_prefix_and_hash() -> None:
    """What generate_key gives, parse_key takes."""
    key = generate_key()

    assert (key.split("_")[1], sha256(key.encode()).digest()) == parse_key(key)


def test_keys_differ() -> None:
    """No two keys are alike, nor their prefixes."""
    keys = [generate_key() for _ in range(100)]

    assert len(keys) == len({key.split("_")[1] for key in keys})


@pytest.mark.parametrize(
    "text",
    [
        "",
        "psk_",
        "psk_0123456789ab_" + "a" * 42,
        "psk_0123456789ab_" + "a" * 44,
        "psk_0123456789AB_" + "a" * 43,
        "psk_0123456789ab_" + "a" * 42 + "!",
        "psk_0123456789ab_" + "a" * 43 + "\n",
        "psk_0123456789ab_" + "é" * 43,
        "sk-ant-0123456789ab",
    ],
)
def test_what_is_no_key_is_refused(text: str) -> None:
    """Nothing but the exact form goes on to the record."""
    assert parse_key(text) is None
