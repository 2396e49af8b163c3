"""A prompt is a file with fenced values in its gaps, and never one with a gap left."""

from pathlib import Path

import pytest

from services.pipelines.fences import element, escape
from services.pipelines.prompts import Prompts


@pytest.fixture
def prompts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Prompts:
    package = tmp_path / "some_prompts"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "greet.system.md").write_text("<!-- About. -->\nGreet, for $5.\n")
    (package / "greet.user.md").write_text("<!-- Two\nlines. -->\n$person\n$place\n")
    monkeypatch.syspath_prepend(tmp_path)
    return Prompts("some_prompts")


def test_a_system_prompt_is_its_file_without_comments(prompts: Prompts) -> None:
    """It takes no value, so its dollar signs are just that."""
    assert prompts.system("greet") == "Greet, for $5."


def test_values_are_put_in_as_they_are(prompts: Prompts) -> None:
    """A value that looks like a gap or a comment is neither."""
    person = element("person", "$place <!-- x -->")

    prompt = prompts.user("greet", person=person, place=escape("here"))

    assert prompt == "<person>$place &lt;!-- x --></person>\nhere"


def test_a_missing_value_is_an_error(prompts: Prompts) -> None:
    """A prompt is never sent with a hole in it."""
    with pytest.raises(KeyError):
        prompts.user("greet", person=escape("Ada"))
