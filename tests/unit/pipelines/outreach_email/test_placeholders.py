"""Placeholders are read exactly, or refused clearly."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.pipelines.outreach_email.placeholders import (
    fill,
    has_marks,
    placeholder_names,
    without_marks,
)

LETTERS = st.characters(categories=["L"])
NAMES = st.builds(
    "".join, st.tuples(LETTERS, st.text(st.one_of(LETTERS, st.sampled_from("_-.'09")), max_size=60))
)
PROSE = st.text(st.characters(exclude_characters="{}"), max_size=40)
SPACES = st.text(st.sampled_from(" \t\n"), max_size=3)


def test_names_come_once_in_their_first_order() -> None:
    """Spaces inside the braces do not count, and a repeated name is one placeholder."""
    template = "{{ b }} {{a}} {{b}} {{recent  paper\ntitle}} {{recipient.affiliation}} {single}"

    names = placeholder_names(template)

    assert names == ("b", "a", "recent paper title", "recipient.affiliation")


@pytest.mark.parametrize(
    "template",
    ["{{", "}}", "{{name", "name}}", "{{a {{b}} c}}", "{{{name}}}", "{{a}", "{{a} }", "}}{{"],
)
def test_stray_marks_are_refused(template: str) -> None:
    """What is opened and not closed, closed and not opened or nested is no template."""
    with pytest.raises(ValueError, match="not opened, not closed or nested near"):
        placeholder_names(template)


@pytest.mark.parametrize("name", ["", " ", "1", "_x", "a:b", "a<b", "x" * 81, "a|b", "-"])
def test_odd_names_are_refused(name: str) -> None:
    """The message quotes the placeholder and says what a name is."""
    with pytest.raises(ValueError, match="begins with a letter"):
        placeholder_names("{{" + name + "}}")


@given(st.lists(st.tuples(PROSE, SPACES, NAMES, SPACES)), PROSE)
def test_every_written_placeholder_is_found_and_filled(
    parts: list[tuple[str, str, str, str]], end: str
) -> None:
    """A template built of prose and placeholders gives back those names, and the prose when filled."""
    template = "".join(f"{prose}{{{{{a}{name}{b}}}}}" for prose, a, name, b in parts) + end
    values = {name: name.upper() for _, _, name, _ in parts}

    assert placeholder_names(template) == tuple(dict.fromkeys(name for _, _, name, _ in parts))
    assert fill(template, values) == "".join(p + n.upper() for p, _, n, _ in parts) + end
    assert fill(template, {}) == template


@given(st.text(st.sampled_from("{} a1_.\n"), max_size=60))
def test_any_text_is_either_refused_or_filled_without_a_rest(template: str) -> None:
    """No text slips through half understood."""
    try:
        names = placeholder_names(template)
    except ValueError:
        return

    assert not has_marks(fill(template, dict.fromkeys(names, "value")))


@given(st.text(st.sampled_from("{}a"), max_size=30))
def test_text_without_marks_names_no_placeholder(text: str) -> None:
    """Nothing that a page says becomes a placeholder."""
    assert not has_marks(without_marks(text))
