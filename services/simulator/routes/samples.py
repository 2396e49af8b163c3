"""Sources to write emails about: three pages and a small arXiv, all made up."""

import json
from functools import lru_cache
from importlib.resources import files
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import HTMLResponse

from services.core.clock import utc_now
from services.simulator import arxiv
from services.simulator.errors import ApiError

router = APIRouter(tags=["Sample sources"])
PAGES = files("services.simulator").joinpath("pages")
PAGE_NAMES = ("researcher.html", "book.html", "organisation.html")


@router.get("/samples/{name}")
async def read_sample(name: str) -> HTMLResponse:
    """One of the sample pages."""
    if name not in PAGE_NAMES:
        raise ApiError(404, "not_found_error", f"There are {', '.join(PAGE_NAMES)}")
    return HTMLResponse(_page(name))


@router.get("/arxiv/api/query")
async def query_arxiv(query: Annotated[arxiv.ArxivQuery, Query()], request: Request) -> Response:
    """The arXiv API's query: an Atom feed of the papers that match."""
    feed = arxiv.write_feed(
        arxiv.find_papers(_papers(), query),
        query,
        url=f"https://arxiv.org/api/query?{request.url.query}",
        updated=f"{utc_now():%Y-%m-%dT%H:%M:%SZ}",
    )
    return Response(feed, media_type="application/atom+xml; charset=utf-8")


@lru_cache
def _page(name: str) -> str:
    return PAGES.joinpath(name).read_text("utf-8")


@lru_cache
def _papers() -> list[arxiv.Paper]:
    texts = json.loads(PAGES.joinpath("arxiv.json").read_text("utf-8"))
    return [arxiv.Paper.model_validate(text) for text in texts]
