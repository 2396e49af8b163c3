"""Traces and logs."""

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field
from pydantic_settings import SettingsConfigDict

from config.secrets import IssuedSecret
from config.sources import Settings


class LogFormat(StrEnum):
    """How log lines look."""

    AUTO = "auto"
    JSON = "json"
    TEXT = "text"


LogLevel = Annotated[
    Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"],
    BeforeValidator(lambda text: str(text).upper()),
]


class LogfireSettings(Settings):
    """Telemetry; harmless without a token."""

    model_config = SettingsConfigDict(env_prefix="LOGFIRE_")

    token: IssuedSecret = None
    """Write token; empty means that nothing leaves this machine."""
    otlp_endpoint: str | None = Field(default=None, validation_alias="OTEL_EXPORTER_OTLP_ENDPOINT")
    """Address of any OpenTelemetry collector (OTLP over HTTP) that gets the traces, with or without Logfire."""
    environment: str | None = None
    """Shown with each span; empty means PENSTOCK_ENV."""
    trace_sample_rate: float = Field(default=1.0, ge=0, le=1)
    """Share of traces that are sent, from 0 to 1. Decided once, at the request, for all that follows from it."""
    capture_content: bool = False
    """Put prompts and answers into spans. They may hold personal data: off unless you need it."""
    log_level: LogLevel = "INFO"
    """Lowest level of log lines: DEBUG, INFO, WARNING, ERROR or CRITICAL."""
    log_format: LogFormat = LogFormat.AUTO
    """json, text, or auto: text in a terminal, JSON elsewhere."""
