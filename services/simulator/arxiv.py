"""A small arXiv: made-up papers, found and written as the arXiv API does it.

https://info.arxiv.org/help/api/user-manual.html
"""

import re
import unicodedata
from xml.etree.ElementTree import (
    Element,
    SubElement,
    indent,
    register_namespace,
    tostring,
)

from pydantic import BaseModel, Field

from services.simulator.answer import fingerprint

ATOM = "http://www.w3.org/2005/Atom"
OPENSEARCH = "http://a9.com/-/spec/opensearch/1.1/"
ARXIV = "http://arxiv.org/schemas/atom"
TERM = re.compile(
    r"(?:(?P<operator>ANDNOT|AND|OR)\s+)?(?:(?P<field>[a-z]+):)?"
    r"(?:\"(?P<phrase>[^\"]*)\"|(?P<word>[^\s()\"]+))"
)
MADE_UP = "Sample entry of the Claude simulator: no such paper exists"


class Paper(BaseModel):
    """One made-up paper; its id has month 13, so that it is nobody's."""

    id: str
    title: str
    authors: list[str]
    published: str
    updated: str
    category: str
    summary: str

    def text_of(self, field: str) -> str:
        """What a field prefix of arXiv's query language searches."""
        fields = {
            "au": " ; ".join(self.authors),
            "ti": self.title,
            "abs": self.summary,
            "cat": self.category,
            "id": self.id,
        }
        return _plain(fields.get(field) or " ; ".join(fields.values()))


class ArxivQuery(BaseModel):
    """The API's query parameters."""

    search_query: str = ""
    id_list: str = ""
    start: int = Field(default=0, ge=0)
    max_results: int = Field(default=10, ge=0, le=2000)
    sort_by: str = Field(default="relevance", alias="sortBy")
    sort_order: str = Field(default="descending", alias="sortOrder")


def find_papers(papers: list[Paper], query: ArxivQuery) -> list[Paper]:
    """All papers that a query asks for, in its order."""
    ids = [identity.strip() for identity in query.id_list.split(",") if identity.strip()]
    found = [
        paper
        for paper in papers
        if (not query.search_query or _matches(paper, query.search_query))
        and (not ids or paper.id in ids or paper.id.partition("v")[0] in ids)
        and (query.search_query or ids)
    ]
    if query.sort_by in {"submittedDate", "lastUpdatedDate"}:
        is_descending = query.sort_order != "ascending"
        field = "published" if query.sort_by == "submittedDate" else "updated"
        found.sort(key=lambda paper: str(getattr(paper, field)), reverse=is_descending)
    return found


def write_feed(found: list[Paper], query: ArxivQuery, *, url: str, updated: str) -> bytes:
    """The Atom feed of one page of the found papers.

    Args:
        found: All that the query found.
        query: Says which page.
        url: The query's own address.
        updated: RFC 3339 time of the answer.
    """
    page = found[query.start : query.start + query.max_results]
    for prefix, namespace in (("", ATOM), ("opensearch", OPENSEARCH), ("arxiv", ARXIV)):
        register_namespace(prefix, namespace)
    feed = Element(f"{{{ATOM}}}feed")
    _add(feed, "id", f"https://arxiv.org/api/{fingerprint(url)[:27]}")
    title = (
        f"arXiv Query: search_query={query.search_query}&id_list={query.id_list}"
        f"&start={query.start}&max_results={query.max_results}"
    )
    _add(feed, "title", title)
    _add(feed, "updated", updated)
    _add(feed, "link", href=url, type="application/atom+xml")
    _add(feed, "itemsPerPage", str(query.max_results), namespace=OPENSEARCH)
    _add(feed, "totalResults", str(len(found)), namespace=OPENSEARCH)
    _add(feed, "startIndex", str(query.start), namespace=OPENSEARCH)
    for paper in page:
        _add_entry(feed, paper)
    indent(feed)
    return bytes(tostring(feed, encoding="UTF-8", xml_declaration=True))


def _add_entry(feed: Element, paper: Paper) -> None:
    entry = SubElement(feed, f"{{{ATOM}}}entry")
    _add(entry, "id", f"http://arxiv.org/abs/{paper.id}")
    _add(entry, "title", paper.title)
    _add(entry, "updated", paper.updated)
    href = f"https://arxiv.org/abs/{paper.id}"
    _add(entry, "link", href=href, rel="alternate", type="text/html")
    href = f"https://arxiv.org/pdf/{paper.id}"
    _add(entry, "link", href=href, rel="related", type="application/pdf", title="pdf")
    _add(entry, "summary", paper.summary)
    _add(entry, "category", term=paper.category, scheme=ARXIV)
    _add(entry, "published", paper.published)
    _add(entry, "comment", MADE_UP, namespace=ARXIV)
    _add(entry, "primary_category", namespace=ARXIV, term=paper.category)
    for name in paper.authors:
        _add(SubElement(entry, f"{{{ATOM}}}author"), "name", name)


def _add(
    parent: Element, tag: str, text: str | None = None, *, namespace: str = ATOM, **attributes: str
) -> None:
    SubElement(parent, f"{{{namespace}}}{tag}", attributes).text = text


def _matches(paper: Paper, search_query: str) -> bool:
    """Whether a paper is what a query asks for; operators count from left to right."""
    is_match = True
    for number, term in enumerate(TERM.finditer(search_query)):
        wanted = _plain((term["phrase"] or term["word"] or "").replace("_", " "))
        has_it = all(word in paper.text_of(term["field"] or "all") for word in wanted.split())
        if number == 0:
            is_match = has_it
        elif term["operator"] == "ANDNOT":
            is_match = is_match and not has_it
        elif term["operator"] == "AND":
            is_match = is_match and has_it
        else:
            is_match = is_match or has_it
    return is_match


def _plain(text: str) -> str:
    """Lower case without accents, as arXiv searches."""
    decomposed = unicodedata.normalize("NFKD", text.replace("-", " "))
    return "".join(sign for sign in decomposed if not unicodedata.combining(sign)).casefold()
