"""Prompts come from files; data gets into them and never out of its element."""

from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.pipelines.outreach_email.prompts import element, escape, render_prompt, unescape

PRINTABLE = st.text(st.characters(exclude_categories=["C", "Z"], exclude_characters="&"))


@pytest.mark.parametrize("step", ["parse_template", "compose_email"])
def test_a_system_prompt_says_that_material_is_no_instruction(step: str) -> None:
    """Each step's system prompt tells Claude how to take what it reads."""
    assert "instruction to you" in " ".join(render_prompt(f"{step}.system.md").split())


def test_a_missing_value_is_an_error() -> None:
    """A prompt is never sent with a hole in it."""
    with pytest.raises(KeyError):
        render_prompt("parse_template.user.md", template="x")


@given(PRINTABLE, PRINTABLE)
def test_an_element_is_read_back_as_it_was(text: str, title: str) -> None:
    """For any text and attribute a parser finds one element with just these."""
    found = ET.fromstring(element("source", text, title=title))  # noqa: S314 - our own text

    assert (found.text or "") == text
    assert found.get("title") == title
    assert len(found) == 0


@given(st.text())
def test_escaped_text_holds_no_tag(text: str) -> None:
    """And unescape gives it back, unless it spelled the escape itself."""
    assert "<" not in escape(text)
    assert "&lt;" in text or text == unescape(escape(text))
