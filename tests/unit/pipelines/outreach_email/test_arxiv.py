"""arXiv's feed is read as it is, and nobody else's papers are taken for the recipient's."""

import pytest

from services.pipelines.outreach_email.arxiv import author_query, choose_papers, parse_papers
from tests.fakes.data import read_data

NAME = "Ingrid Solheim"
EXTERNAL_ENTITY = b"""<?xml version="1.0"?>
<!DOCTYPE feed [<!ENTITY x SYSTEM "file:///etc/passwd">]>
<feed><entry><title>&x;</title></entry></feed>"""


def test_a_real_looking_feed_is_parsed() -> None:
    """Titles and abstracts are one line each, entities are resolved, the link is the abstract page."""
    papers = parse_papers(read_data("arxiv.xml").encode())

    assert [paper.url for paper in papers] == [
        "https://arxiv.org/abs/2613.00001v1",
        "https://arxiv.org/abs/2613.00002v2",
        "https://arxiv.org/abs/2513.00003v1",
    ]
    assert papers[0].title == "Counting puffins from a kayak: a survey design"
    assert "seabirds & seals by kayak, with fewer than < 5" in papers[0].abstract
    assert papers[1].authors == ("Ingrid Solheim", "Jun Takeda")
    assert papers[1].text.splitlines()[:3] == [
        "Stochastic emulators of convection in weather models",
        "Authors: Ingrid Solheim, Jun Takeda",
        "Published: 2026-08-30",
    ]


@pytest.mark.parametrize(
    "feed",
    [
        read_data("arxiv_error.xml").encode(),
        b"",
        b"<html><body>Rate exceeded.</body></html>",
        b"\xff\xfe\x00",
        b"/etc/passwd",
        b"http://127.0.0.1:9/feed.xml",
        EXTERNAL_ENTITY,
    ],
)
def test_what_is_no_list_of_papers_holds_none(feed: bytes) -> None:
    """Errors, empty and foreign documents give no paper; no file and no address is opened."""
    assert [] == parse_papers(feed)


def test_papers_that_touch_the_interest_come_first() -> None:
    """Among the recipient's own papers the interest decides, then the date."""
    papers = parse_papers(read_data("arxiv.xml").encode())

    by_date = choose_papers(papers, name=NAME, interest=None)
    by_interest = choose_papers(papers, name=NAME, interest="emulators of weather")

    assert [paper.url[-12:] for paper in by_date] == ["2613.00001v1", "2613.00002v2"]
    assert [paper.url[-12:] for paper in by_interest] == ["2613.00002v2", "2613.00001v1"]


@pytest.mark.parametrize(
    "name", ["Prof. Ingrid Solheim", "I. Solheim", "ingrid marie SOLHEIM", "Íngrid Sólheim"]
)
def test_one_person_has_many_spellings(name: str) -> None:
    """Titles, initials, middle names, case and accents do not matter."""
    papers = parse_papers(read_data("arxiv.xml").encode())

    assert len(choose_papers(papers, name=name, interest=None)) == 2


@pytest.mark.parametrize("name", ["Kari Solheim-Berg", "Ingrid", "Olga Solheim", "...", "李"])
def test_other_people_have_other_papers(name: str) -> None:
    """A shared family name is not enough."""
    papers = parse_papers(read_data("arxiv.xml").encode())

    assert [] == choose_papers(papers, name=name, interest=None)


@pytest.mark.parametrize(
    ("name", "query"),
    [
        ("Dr. Ada O'Neil", 'au:"Ada O Neil"'),
        ('Eve" OR all:"x', 'au:"Eve OR all x"'),
        ("Søren Ødegård", 'au:"Søren Ødegård"'),
    ],
)
def test_a_name_cannot_change_the_query(name: str, query: str) -> None:
    """Only its words get into the query."""
    assert query == author_query(name)["search_query"]
