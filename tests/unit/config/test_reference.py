"""The settings as text are complete and current."""

from pathlib import Path

import pytest

from config.reference import MARKER, settings_models, to_env_example, variables_of, with_tables
from config.sources import Settings

ROOT = Path(__file__).parents[3]


def _subclasses(model: type[Settings]) -> set[type[Settings]]:
    return {found for child in model.__subclasses__() for found in {child, *_subclasses(child)}}


def test_env_example_is_current() -> None:
    """The committed .env.example is what the models say; otherwise run `make env-example`."""
    assert to_env_example() == (ROOT / ".env.example").read_text()


def test_tables_in_the_docs_are_current() -> None:
    """The committed docs/configuration.md has every variable; otherwise run `make env-example`."""
    document = (ROOT / "docs" / "configuration.md").read_text()

    assert with_tables(document) == document


def test_every_settings_class_is_in_it() -> None:
    """A new settings model cannot be left out of the documentation."""
    of_config = {model for model in _subclasses(Settings) if model.__module__.startswith("config.")}

    assert of_config == set(settings_models())


@pytest.mark.parametrize("model", settings_models())
def test_every_setting_says_what_it_does(model: type[Settings]) -> None:
    """Each field has a docstring, a whole sentence, and those in seconds say so."""
    for variable in variables_of(model):
        assert variable.text.endswith((".", "...")), variable.name
        if variable.name.endswith("_S"):
            assert "econds" in variable.text, variable.name


def test_no_two_settings_share_a_variable() -> None:
    """One variable, one meaning."""
    names = [variable.name for model in settings_models() for variable in variables_of(model)]

    assert sorted(set(names)) == sorted(names)


def test_env_example_can_be_used_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read as an .env, commented-out lines included, it gives the defaults."""
    for line in to_env_example().splitlines():
        name, equals, value = line.removeprefix("#").partition("=")
        if equals and name.isupper() and " " not in name:
            monkeypatch.setenv(name, value)

    for model in settings_models():
        assert model() == model.model_construct()


def test_tables_need_their_marker() -> None:
    """A document without the marker is left alone, loudly."""
    with pytest.raises(ValueError, match="has no line"):
        with_tables("# Configuration\n")
    assert with_tables(f"# Text\n{MARKER}\nold").startswith(f"# Text\n{MARKER}\n\n### Environment")
