"""Where settings come from: the process environment, then one file per secret."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict
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


class Settings(BaseSettings):
    """Settings read from the environment, then from secret files; unknown names are ignored."""

    model_config = SettingsConfigDict(
        extra="ignore",
        env_ignore_empty=True,
        frozen=True,
        use_attribute_docstrings=True,
        hide_input_in_errors=True,
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
        return (init_settings, env_settings, SecretsSettingsSource(settings_cls, folder))
