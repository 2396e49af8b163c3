"""services.simulator.findings: values that stand in the prompt, or none."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.simulator.findings import find_value
from services.simulator.material import Material

SOURCES = """<recipient>
name: Elena Marsh
affiliation: Northfield University
</recipient>
<source id="1">
Elena Marsh
Her research interest is sediment transport, mostly in rivers. Write to elena@example.org.
- Publisher: Quill & Harbour Press. Founded long ago.
Marsh, E. (2026). Storm memory of marshes. Journal 1.
The book "Salt Hours" came out first.
Homepage: https://example.org/elena
</source>
<source id="2">
Where does the mud go?
Authors: Elena Marsh
Published: 2024-04-22
Budgets are closed by measurement.
</source>"""


@pytest.mark.parametrize(
    ("name", "value", "source_id"),
    [
        ("affiliation", "Northfield University", None),
        ("publisher", "Quill & Harbour Press", "1"),
        ("research_interest", "sediment transport", "1"),
        ("research topic", "sediment transport", "1"),
        ("recent_paper", "Storm memory of marshes", "1"),
        ("book title", "Salt Hours", "1"),
    ],
)
def test_a_value_is_found_where_the_prompt_has_it(name, value, source_id):
    """By label, phrase, reference or quotation; what is known of the person goes first."""
    finding = find_value(name, "", Material(SOURCES))

    assert finding is not None
    assert value == finding.value
    assert source_id == (finding.source.attributes["id"] if finding.source else None)


def test_a_papers_own_title_is_found():
    """A source that is a paper itself begins with its title."""
    paper = SOURCES[SOURCES.index('<source id="2">') :]

    finding = find_value("latest paper", "", Material(paper))

    assert finding is not None
    assert finding.value == "Where does the mud go?"


@pytest.mark.parametrize("name", ["award", "title", "homepage", "the", "x", "favourite colour"])
def test_what_the_prompt_does_not_tell_is_not_found(name):
    """Nothing is guessed, and links and addresses of strangers are not passed on."""
    assert find_value(name, "", Material(SOURCES)) is None


@settings(deadline=None)
@given(st.text(max_size=30), st.text(alphabet='abc .:"()2026\n', max_size=120))
def test_a_found_value_stands_in_the_prompt(name, text):
    """Whatever is asked and whatever is given, a value is a copy."""
    material = Material(f'<source id="1">\n{text}\n</source>')

    finding = find_value(name, "", material)

    assert finding is None or finding.value in text
