"""Kinds of secrets, and what makes one too weak to be deployed."""

from typing import Annotated, Final

from pydantic import AfterValidator, SecretStr

from config.environment import Environment, EnvironmentSettings

MIN_LENGTH: Final = 16
MIN_DISTINCT_CHARACTERS: Final = 6
# Long enough that a generated secret holds one by chance once in a million times at most.
PLACEHOLDERS: Final = (
    "change",
    "example",
    "placeholder",
    "replace",
    "your-",
    "your_",
    "xxxxx",
    "...",
    "<",
)
GUESSES: Final = (
    "password",
    "passwd",
    "penstock",
    "postgres",
    "redis",
    "flower",
    "admin",
    "secret",
    "12345",
    "qwerty",
)
REMEDY: Final = "put what `openssl rand -hex 24` prints into .env, then `make up`"


def find_weakness(secret: str) -> str | None:
    """What is wrong with a secret, or None if it will do."""
    text = secret.lower()
    if any(word in text for word in PLACEHOLDERS):
        return "is a placeholder"
    if len(secret) < MIN_LENGTH:
        return f"is too short: {len(secret)} characters, at least {MIN_LENGTH}"
    if len(set(secret)) < MIN_DISTINCT_CHARACTERS or any(word in text for word in GUESSES):
        return "is easy to guess"
    return None


def _is_deployed() -> bool:
    return EnvironmentSettings().env is not Environment.DEVELOPMENT


def _refuse_missing(secret: SecretStr | None) -> SecretStr | None:
    if secret is None and _is_deployed():
        message = f"is missing; {REMEDY}"
        raise ValueError(message)
    return secret


def _refuse_weak(secret: SecretStr | None) -> SecretStr | None:
    if secret is not None and _is_deployed():
        weakness = find_weakness(secret.get_secret_value())
        if weakness:
            message = f"{weakness}; {REMEDY}"
            raise ValueError(message)
    return secret


def _refuse_placeholder(secret: SecretStr | None) -> SecretStr | None:
    if secret is not None and any(
        word in secret.get_secret_value().lower() for word in PLACEHOLDERS
    ):
        message = "is a placeholder; set the real one or leave it empty"
        raise ValueError(message)
    return secret


GENERATED_BY: Final = "make secrets"
"""Marks the fields that it writes."""

GeneratedSecret = Annotated[
    SecretStr | None, GENERATED_BY, AfterValidator(_refuse_missing), AfterValidator(_refuse_weak)
]
"""A password that `make secrets` makes; outside development it must be there, and strong."""

IssuedSecret = Annotated[SecretStr | None, AfterValidator(_refuse_placeholder)]
"""A key that somebody else issues; optional."""
