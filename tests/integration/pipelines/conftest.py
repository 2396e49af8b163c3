"""A local web server for all, and the simulator as in the tests of Claude."""

from collections.abc import AsyncIterator

import pytest

from tests.fakes.page_server import PageServer, serve_pages
from tests.integration.claude.conftest import _served, claude, make_claude, simulator

__all__ = ["_served", "claude", "make_claude", "simulator"]


@pytest.fixture
async def pages() -> AsyncIterator[PageServer]:
    """A local server without pages."""
    async with serve_pages() as server:
        yield server
