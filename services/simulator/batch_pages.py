"""Message batches page by page, as Claude's API lists them: the newest first."""

from typing import Any

from pydantic import BaseModel, Field

from services.simulator.batches import Batch
from services.simulator.errors import InvalidRequestError


class PageQuery(BaseModel):
    """Which page."""

    after_id: str | None = None
    """The page after this batch: older ones."""
    before_id: str | None = None
    """The page before this batch: newer ones."""
    limit: int = Field(default=20, ge=1, le=1000)


def find_page(batches: list[Batch], query: PageQuery, base_url: str) -> dict[str, Any]:
    """A page of batches.

    Args:
        batches: All, the newest first.
        query: Which.
        base_url: By which the client knows the simulator.

    Raises:
        InvalidRequestError: There is no such batch to begin at.
    """
    if query.after_id and query.before_id:
        raise InvalidRequestError("after_id and before_id cannot be used together")
    if query.before_id:
        candidates = batches[: _position(batches, query.before_id)]
        page = candidates[-query.limit :]
    else:
        start = _position(batches, query.after_id) + 1 if query.after_id else 0
        candidates = batches[start:]
        page = candidates[: query.limit]
    return {
        "data": [batch.describe(base_url) for batch in page],
        "has_more": len(candidates) > len(page),
        "first_id": page[0].id if page else None,
        "last_id": page[-1].id if page else None,
    }


def _position(batches: list[Batch], batch_id: str) -> int:
    for position, batch in enumerate(batches):
        if batch.id == batch_id:
            return position
    raise InvalidRequestError(f"There is no batch {batch_id}")
