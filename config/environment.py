"""Which kind of deployment this is."""

from enum import StrEnum

from pydantic_settings import SettingsConfigDict

from config.sources import Settings


class Environment(StrEnum):
    """The kinds of deployment."""

    DEVELOPMENT = "development"
    STAGING = "staging"
    PRODUCTION = "production"


class EnvironmentSettings(Settings):
    """The deployment that this process belongs to."""

    model_config = SettingsConfigDict(env_prefix="PENSTOCK_")

    env: Environment = Environment.DEVELOPMENT
    """development, staging or production. Outside development weak or placeholder secrets are refused."""
