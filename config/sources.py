"""Where settings come from: the process environment, then one file per secret."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)
from pydantic_settings.sources import SecretsSettingsSource
from typing_extensions import override

DEFAULT_SECRETS_DIR = Path("/run/secrets")


def secrets_dir() -> Path | None:
    """The folder that holds one file per secret, or None where there is none."""
    folder = Path(os.environ.get("SECRETS_DIR") or DEFAULT_SECRETS_DIR)  # noqa: TID251 - the one door to the environment
    return folder if folder.is_dir() else None


@contextmanager
def environment_variables(**values: str) -> Iterator[None]:
    """Set variables for a moment, for libraries that can be told in no other way."""
    environ = os.environ  # noqa: TID251 - the one door to the environment
    before = {name: environ.get(name) for name in values}
    environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del environ[name]
            else:
                environ[name] = value


def _to_items(value: Any) -> Any:
    """A JSON list, or the parts of a comma-separated one."""
    if not isinstance(value, str):
        return value
    if value.lstrip().startswith("["):
        try:
            return json.loads(value)
        except json.JSONDecodeError as error:
            message = f"is not a JSON list ({error.msg})"
            raise ValueError(message) from error
    return [item.strip() for item in value.split(",") if item.strip()]


TextList = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_to_items)]
"""Texts, written as a JSON list or with commas between them."""


class SecretFiles(SecretsSettingsSource):
    """One file per secret; an empty one means that there is no secret."""

    @override
    def __call__(self) -> dict[str, Any]:
        try:
            texts = super().__call__()
        except SettingsError as error:
            if isinstance(error.__cause__, OSError):
                raise error.__cause__ from None  # it has the file's name
            raise
        return {name: text for name, text in texts.items() if text}


class Settings(BaseSettings):
    """Settings read from the environment, then from secret files; unknown names are ignored."""

    model_config = SettingsConfigDict(
        extra="ignore",
        env_ignore_empty=True,
        frozen=True,
        use_attribute_docstrings=True,
        hide_input_in_errors=True,
        validate_by_name=True,
        validate_by_alias=True,
        validate_default=True,
    )

    @classmethod
    @override
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments win over the environment, and the environment over secret files."""
        folder = secrets_dir()
        if folder is None:
            return (init_settings, env_settings)
        return (init_settings, env_settings, SecretFiles(settings_cls, folder))

    @classmethod
    def variable_of(cls, field: str) -> str:
        """The name of the environment variable that sets a field."""
        alias = cls.model_fields[field].validation_alias
        prefix = cls.model_config.get("env_prefix", "")
        return alias if isinstance(alias, str) else f"{prefix}{field}".upper()
