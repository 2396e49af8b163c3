"""A web without a network."""

from services.core.errors import StepInputError
from services.pipelines.definition import WebPage


class FakeWeb:
    """Gives the pages and the feed of the test; other addresses do not exist."""

    def __init__(
        self,
        pages: dict[str, WebPage | Exception] | None = None,
        feed: bytes | Exception = b"",
    ) -> None:
        """Take what there is to read; an exception is raised."""
        self._pages = pages or {}
        self._feed = feed
        self.feed_requests: list[tuple[str, dict[str, str]]] = []

    async def read_page(self, url: str) -> WebPage:
        """The page of this address."""
        page = self._pages.get(url, StepInputError("it answered 404"))
        if isinstance(page, Exception):
            raise page
        return page

    async def read_feed(self, url: str, params: dict[str, str]) -> bytes:
        """The feed, whatever is asked for."""
        self.feed_requests.append((url, params))
        if isinstance(self._feed, Exception):
            raise self._feed
        return self._feed
