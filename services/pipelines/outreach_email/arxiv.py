"""The recipient's papers on arXiv: the API's query and its Atom answer.

https://info.arxiv.org/help/api/user-manual.html
"""

import io
import re
import unicodedata
from dataclasses import dataclass

import feedparser  # type: ignore[import-untyped]  # it ships no types

MAX_RESULTS = 20
MAX_PAPERS = 5
HONORIFICS = frozenset({"dr", "prof", "professor", "mr", "mrs", "ms", "mx", "sir", "dame"})


@dataclass(frozen=True, slots=True)
class Paper:
    """One entry of the feed."""

    url: str
    title: str
    authors: tuple[str, ...]
    published: str
    """RFC 3339, as arXiv gives it."""
    abstract: str

    @property
    def text(self) -> str:
        """What a reader of the abstract page sees."""
        authors = ", ".join(self.authors)
        return (
            f"{self.title}\nAuthors: {authors}\nPublished: {self.published[:10]}\n{self.abstract}"
        )


def author_query(name: str) -> dict[str, str]:
    """The query parameters for the newest papers by an author of that name."""
    # Words only: quotes, brackets and operators have a meaning in arXiv's query language.
    return {
        "search_query": f'au:"{" ".join(_name_words(name))}"',
        "start": "0",
        "max_results": str(MAX_RESULTS),
        "sortBy": "submittedDate",
        "sortOrder": "descending",
    }


def parse_papers(feed: bytes) -> list[Paper]:
    """The papers of an Atom feed; an empty list if it holds none or is no feed."""
    # A stream, because parse() would open a plain string as a URL or a file.
    entries = feedparser.parse(io.BytesIO(feed)).entries
    papers = (_paper(entry) for entry in entries)
    return [paper for paper in papers if "/abs/" in paper.url]  # an error has another address


def choose_papers(papers: list[Paper], *, name: str, interest: str | None) -> list[Paper]:
    """At most five papers by an author of that name, those that touch the interest first.

    arXiv matches names loosely, so family name and first initial are compared here once more.
    """
    own = [
        paper for paper in papers if any(_is_same_name(name, author) for author in paper.authors)
    ]
    wanted = set(_words(interest or ""))
    return sorted(own, key=lambda paper: -len(wanted & set(_words(paper.text))))[:MAX_PAPERS]


def _paper(entry: feedparser.FeedParserDict) -> Paper:
    return Paper(
        url=entry.get("link") or entry.get("id", ""),
        title=_one_line(entry.get("title", "")),
        authors=tuple(_one_line(author.get("name", "")) for author in entry.get("authors", [])),
        published=entry.get("published", ""),
        abstract=_one_line(entry.get("summary", "")),
    )


def _is_same_name(name: str, author: str) -> bool:
    wanted, given = _name_words(_plain(name)), _name_words(_plain(author))
    return bool(wanted and given) and wanted[-1] == given[-1] and wanted[0][0] == given[0][0]


def _name_words(name: str) -> list[str]:
    words = re.findall(r"[^\W\d_]+", name)
    return [word for word in words if word.casefold() not in HONORIFICS] or words


def _plain(text: str) -> str:
    """Lower case without accents: arXiv writes both Schölkopf and Scholkopf."""
    decomposed = unicodedata.normalize("NFKD", text)
    return "".join(c for c in decomposed if not unicodedata.combining(c)).casefold()


def _words(text: str) -> list[str]:
    return [word for word in re.findall(r"[^\W_]+", _plain(text)) if len(word) > 2]  # noqa: PLR2004 - shorter words say nothing


def _one_line(text: str) -> str:
    return " ".join(text.split())
