"""Settings as on a fresh machine: none of the developer's own variables."""

import os

import pytest

from config.reference import settings_models


@pytest.fixture(autouse=True)
def _no_variables(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Take away every variable that a settings model reads, and point to an empty folder of secrets."""
    for model in settings_models():
        for field in model.model_fields:
            monkeypatch.delenv(model.variable_of(field), raising=False)
    assert "PENSTOCK_ENV" not in os.environ  # noqa: TID251 - a look, not a setting
    monkeypatch.setenv("SECRETS_DIR", str(tmp_path_factory.mktemp("secrets")))
