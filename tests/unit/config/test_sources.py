"""Settings come from the environment and from secret files, and from nowhere else."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from config.anthropic import AnthropicSettings
from config.logfire import LogfireSettings
from config.postgres import PostgresSettings
from config.sources import environment_variables


@pytest.fixture
def secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of secret files."""
    monkeypatch.setenv("SECRETS_DIR", str(tmp_path))
    return tmp_path


def _password(settings: PostgresSettings) -> str | None:
    return settings.password.get_secret_value() if settings.password else None


def test_a_secret_file_gives_its_secret(secrets: Path) -> None:
    """The line end that editors and `echo` add is not part of the secret."""
    (secrets / "postgres_password").write_text("from a file\n")

    assert _password(PostgresSettings()) == "from a file"


def test_an_empty_secret_file_gives_none(secrets: Path) -> None:
    """Compose must mount a file even for a key that nobody has."""
    (secrets / "anthropic_api_key").write_text("\n")

    assert AnthropicSettings().api_key is None


def test_the_environment_wins_over_secret_files(
    secrets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A variable set for one process overrides the deployment's file."""
    (secrets / "postgres_password").write_text("from a file")
    monkeypatch.setenv("POSTGRES_PASSWORD", "from the environment")

    assert _password(PostgresSettings()) == "from the environment"


def test_an_empty_variable_counts_as_not_set(
    secrets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`POSTGRES_PASSWORD=` in .env hides no file, and `POSTGRES_PORT=` is the default port."""
    (secrets / "postgres_password").write_text("from a file")
    monkeypatch.setenv("POSTGRES_PASSWORD", "")
    monkeypatch.setenv("POSTGRES_PORT", "")

    assert _password(PostgresSettings()) == "from a file"
    assert PostgresSettings().port == 5432


def test_unknown_variables_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other programs' variables with our prefix do no harm."""
    monkeypatch.setenv("POSTGRES_INITDB_ARGS", "--data-checksums")

    assert PostgresSettings().db == "penstock"


def test_a_dotenv_file_in_the_folder_has_no_effect(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a process gets is decided by whoever starts it, not by where it starts."""
    (tmp_path / ".env").write_text("POSTGRES_DB=other\n")
    monkeypatch.chdir(tmp_path)

    assert PostgresSettings().db == "penstock"


def test_settings_cannot_be_changed() -> None:
    """One process, one set of settings."""
    settings = PostgresSettings()

    with pytest.raises(ValidationError, match="frozen"):
        settings.port = 1


def test_secrets_are_not_shown() -> None:
    """A settings object may be printed or logged."""
    assert "hunter2-hunter2" not in repr(PostgresSettings(password="hunter2-hunter2"))  # type: ignore[arg-type]  # as from .env


def test_an_aliased_field_reads_its_own_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenTelemetry's variable keeps OpenTelemetry's name."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318")

    assert LogfireSettings().otlp_endpoint == "http://collector:4318"
    assert LogfireSettings.variable_of("otlp_endpoint") == "OTEL_EXPORTER_OTLP_ENDPOINT"
    assert LogfireSettings.variable_of("log_level") == "LOGFIRE_LOG_LEVEL"


def test_environment_variables_are_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Libraries see the change for a moment; child processes started later do not."""
    monkeypatch.setenv("POSTGRES_DB", "before")
    monkeypatch.delenv("POSTGRES_USER", raising=False)

    with environment_variables(POSTGRES_DB="during", POSTGRES_USER="during"):
        during = PostgresSettings()
    after = PostgresSettings()

    assert (during.db, during.user) == ("during", "during")
    assert (after.db, after.user) == ("before", "penstock")
