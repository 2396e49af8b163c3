"""Data gets into its fence, never out of it, and is read back as it was."""

from xml.etree import ElementTree as ET

from hypothesis import example, given
from hypothesis import strategies as st

from services.pipelines.fences import element, escape, lines, section, unescape

PRINTABLE = st.text(st.characters(exclude_categories=["C", "Z"], exclude_characters="&"))
ESCAPES = st.lists(
    st.sampled_from(["<", ">", '"', "&", "amp;", "lt;", "gt;", "quot;", "a", "&lt;", "&amp;lt;"])
).map("".join)


@given(PRINTABLE, PRINTABLE)
def test_an_element_is_read_back_as_it_was(text: str, title: str) -> None:
    """For any text and attribute a parser finds one element with just these."""
    found = ET.fromstring(element("source", text, title=title))  # noqa: S314 - our own text

    assert (found.text or "") == text
    assert found.get("title") == title
    assert len(found) == 0


@given(st.text() | ESCAPES)
@example("&amp;lt;")
@example("&&lt;<lt;&amp;")
def test_escaped_text_holds_no_tag_and_is_read_back(text: str) -> None:
    """Also a text that spells the escapes itself."""
    assert "<" not in escape(text)
    assert text == unescape(escape(text))


@given(st.text() | ESCAPES)
def test_an_attribute_stays_within_its_quotes(value: str) -> None:
    """It is one line, ends where it should, and is read back."""
    written = (
        element("page", "", title=value).removeprefix('<page title="').removesuffix("></page>")
    )
    inside, quote, rest = written.rpartition('"')

    assert (quote, rest) == ('"', "")
    assert not set('<>"\n') & set(inside)
    assert unescape(inside) == " ".join(value.split())


def test_ordinary_text_stays_as_it_is() -> None:
    """Claude reads, and quotes, what the page says."""
    text = 'R&D > theory, says "Q&A"; see https://example.org/?a=1&b=2 &nbsp; &c.'

    assert text == escape(text)


def test_sections_hold_elements() -> None:
    """What is fenced already is not fenced twice."""
    assert (
        section("list", element("item", "a < b", id=1), lines(element("item", "c")), of="two")
        == '<list of="two"><item id="1">a &lt; b</item>\n<item>c</item></list>'
    )
