"""services.simulator.arxiv: found and written as the arXiv API does it."""

import io

import feedparser
import pytest

from services.simulator.arxiv import ArxivQuery, Paper, find_papers, write_feed

URL = "https://arxiv.org/api/query?search_query=x"
NOW = "2026-11-23T12:00:00Z"


def paper(number: int, *authors: str, title: str = "Mud & sand", category: str = "cs.DS") -> Paper:
    """A made-up paper of that year's January."""
    return Paper(
        id=f"{number}13.00001v2",
        title=title,
        authors=list(authors),
        published=f"20{number}-01-01T00:00:00Z",
        updated=f"20{40 - number}-01-01T00:00:00Z",
        category=category,
        summary="We measure <silt>.",
    )


PAPERS = [
    paper(24, "Elena Marsh", "Jörg Schölkopf"),
    paper(26, "Elena Marsh", title="Salt"),
    paper(25, "Edmund Marsh", category="cs.CL"),
]


def years(search_query: str = "", **changes: object) -> list[str]:
    """The years of the papers found."""
    query = ArxivQuery.model_validate({"search_query": search_query, **changes})
    return [found.id[:2] for found in find_papers(PAPERS, query)]


@pytest.mark.parametrize(
    ("search_query", "expected"),
    [
        ('au:"Elena Marsh"', ["24", "26"]),
        ("au:marsh_e", ["24", "26", "25"]),
        ("au:Scholkopf", ["24"]),
        ("ti:salt", ["26"]),
        ("abs:silt AND cat:cs.CL", ["25"]),
        ("au:marsh ANDNOT ti:salt", ["24", "25"]),
        ("ti:salt OR cat:cs.CL", ["26", "25"]),
        ("all:salt", ["26"]),
        ('au:"Nobody Known"', []),
        ("", []),
    ],
)
def test_a_query_finds_what_arxiv_would(search_query, expected):
    """Fields, phrases, operators, and letters with or without accents."""
    assert expected == years(search_query)


def test_an_id_list_finds_papers_with_or_without_version():
    """As a link to a paper may have either."""
    assert years(id_list="2413.00001,2613.00001v2,9999.00001") == ["24", "26"]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"sortBy": "submittedDate"}, ["26", "25", "24"]),
        ({"sortBy": "submittedDate", "sortOrder": "ascending"}, ["24", "25", "26"]),
        ({"sortBy": "lastUpdatedDate"}, ["24", "25", "26"]),
    ],
)
def test_results_are_sorted_as_asked(changes, expected):
    """By submission or by update, either way round."""
    assert expected == years("all:marsh", **changes)


def test_a_feed_is_what_a_feed_reader_expects():
    """Atom with OpenSearch's counts; the page asked for; signs escaped."""
    query = ArxivQuery(search_query="all:marsh", start=1, max_results=1)

    feed = feedparser.parse(io.BytesIO(write_feed(PAPERS, query, url=URL, updated=NOW)))

    (entry,) = feed.entries
    assert feed.bozo is False
    counts = ("opensearch_totalresults", "opensearch_startindex", "opensearch_itemsperpage")
    assert [feed.feed[name] for name in counts] == ["3", "1", "1"]
    assert feed.feed.updated == NOW
    assert entry.title == "Salt"
    assert entry.link == "https://arxiv.org/abs/2613.00001v2"
    assert entry.summary == "We measure <silt>."
    assert [author.name for author in entry.authors] == ["Elena Marsh"]
    assert entry.arxiv_primary_category["term"] == "cs.DS"
    assert "no such paper exists" in entry.arxiv_comment


def test_nothing_found_is_a_feed_without_entries():
    """As arXiv answers a name that it does not know."""
    feed = feedparser.parse(io.BytesIO(write_feed([], ArxivQuery(), url=URL, updated=NOW)))

    assert feed.entries == []
    assert feed.feed.opensearch_totalresults == "0"
