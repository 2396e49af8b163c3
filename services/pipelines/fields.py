"""Types of fields that the inputs of several pipelines have."""

from typing import Annotated

from pydantic import AfterValidator, Field, HttpUrl, StringConstraints, TypeAdapter
from pydantic_core import PydanticCustomError

HTTP_URL = TypeAdapter(HttpUrl)


def _web_address(text: str) -> str:
    """The address as it was written, so that a client finds it again in the output."""
    url = HTTP_URL.validate_python(text)
    if url.username is not None or url.password is not None:
        raise PydanticCustomError(
            "login_in_address", "The address must not hold a user name or a password."
        )
    return text


# Control characters would reach mail headers, and PostgreSQL stores no NUL in JSON.
Line = Annotated[
    str,
    StringConstraints(
        strip_whitespace=True, min_length=1, max_length=300, pattern=r"^[^\x00-\x1f\x7f]*$"
    ),
]
"""A line of at most 300 characters."""

TEXT_PATTERN = r"^[^\x00-\x08\x0b\x0c\x0e-\x1f]*$"
"""Any text with tabs and line breaks, but without other control characters."""

SourceUrl = Annotated[
    str,
    StringConstraints(strip_whitespace=True, max_length=2000, pattern=r"^[^\s\x00-\x1f\x7f]*$"),
    AfterValidator(_web_address),
    Field(json_schema_extra={"format": "uri"}),
]
"""The address of a web page to read."""
