"""config.anthropic: Claude, the simulator, or neither."""

import pytest
from anthropic.resources.messages.messages import DEPRECATED_MODELS

from config.anthropic import AnthropicSettings

SIMULATOR = "http://simulator:8080"


@pytest.mark.parametrize(
    ("api_key", "simulator_url", "is_simulated", "is_configured"),
    [
        ("sk-ant-1", None, False, True),
        ("sk-ant-1", SIMULATOR, False, True),
        (None, SIMULATOR, True, True),
        (" \n", SIMULATOR, True, True),
        (None, None, False, False),
    ],
)
def test_a_key_keeps_the_simulator_out(api_key, simulator_url, is_simulated, is_configured) -> None:
    """The simulator answers only where there is no key."""
    settings = AnthropicSettings(api_key=api_key, simulator_url=simulator_url)

    assert is_simulated is settings.is_simulated
    assert is_configured is settings.is_configured


def test_a_pasted_key_loses_its_line_break() -> None:
    """A header cannot hold one."""
    settings = AnthropicSettings(api_key="sk-ant-1\n")  # type: ignore[arg-type]  # pydantic makes it a secret

    assert settings.api_key is not None
    assert settings.api_key.get_secret_value() == "sk-ant-1"


def test_the_default_models_are_current() -> None:
    """A deprecated default would stop working on a date that somebody else set."""
    settings = AnthropicSettings()

    assert {settings.model, settings.fallback_price_model}.isdisjoint(DEPRECATED_MODELS)
