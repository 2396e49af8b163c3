"""Lists come in pages: a limit, and a cursor that only the record can read."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from services.api.errors import InvalidRequestError
from services.api.validation import FieldError

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]
"""A pipeline, a template type: never control characters, which PostgreSQL does not compare with."""


class PageQuery(BaseModel):
    """Which page of a list; unknown parameters are refused, since a misspelt filter would list too much."""

    model_config = ConfigDict(extra="forbid")

    cursor: str | None = Field(
        default=None, max_length=500, description="`next_cursor` of the page before."
    )
    limit: int = Field(default=50, ge=1, le=200, description="Most items to list.")


@contextmanager
def known_cursor() -> Iterator[None]:
    """Say what is wrong if the record cannot read the cursor.

    Raises:
        InvalidRequestError: It cannot.
    """
    try:
        yield
    except ValueError as error:
        message = "This is not a cursor of this list"
        raise InvalidRequestError([FieldError("query", "/cursor", message)]) from error
