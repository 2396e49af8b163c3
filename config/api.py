"""The HTTP API."""

import re
from typing import Annotated, Final

from pydantic import AfterValidator, Field, SecretStr
from pydantic_settings import SettingsConfigDict

from config.secrets import GENERATED_BY
from config.sources import Settings

KEY_FORM: Final = re.compile(r"psk_[0-9a-f]{12}_[\w-]{43}", re.ASCII)
NEW_KEY: Final = "echo psk_$(openssl rand -hex 6)_$(openssl rand -base64 32 | tr +/ -_ | tr -d =)"


def _refuse_malformed(key: SecretStr | None) -> SecretStr | None:
    if key is not None and not KEY_FORM.fullmatch(key.get_secret_value()):
        message = (
            f"is not a key of the form psk_<12 hex digits>_<43 characters>; `{NEW_KEY}` prints one"
        )
        raise ValueError(message)
    return key


class ApiSettings(Settings):
    """How the API listens and what it accepts."""

    model_config = SettingsConfigDict(env_prefix="API_")

    bind_host: str = "127.0.0.1"
    """Address to listen on inside the container or on the host."""
    port: int = Field(default=8000, ge=1, le=65535)
    """TCP port."""
    workers: int = Field(default=2, ge=1)
    """gunicorn worker processes."""
    initial_key: Annotated[SecretStr | None, GENERATED_BY, AfterValidator(_refuse_malformed)] = None
    """First API key, stored (hashed) by `migrate`; read from the secret file `api_initial_key` in containers."""
    max_body_bytes: int = Field(default=1_048_576, ge=1024)
    """Largest request body, in bytes; more is answered 413."""
    max_batch_bytes: int = Field(default=33_554_432, ge=1024)
    """Largest body of a batch of runs (`POST /v1/batches`), in bytes; more is answered 413."""
    max_queued_runs: int = Field(default=100_000, ge=1)
    """Queued runs above which new ones are answered 429."""
    keepalive_s: int = Field(default=65, ge=1)
    """Seconds that an idle connection is kept; above a load balancer's own idle time."""
    shutdown_grace_s: int = Field(default=20, ge=4)
    """Seconds that a stopping process gives its requests; below stop_grace_period."""
    metrics_dir: str | None = Field(default=None, validation_alias="PROMETHEUS_MULTIPROC_DIR")
    """Folder in which the processes behind one port share HTTP figures; gunicorn's settings make one for each start."""
