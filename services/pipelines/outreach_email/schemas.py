"""What goes into an outreach email, what each step finds, and what comes out."""

from enum import StrEnum
from typing import Annotated, Any, LiteralString
from uuid import UUID

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
)
from pydantic_core import PydanticCustomError

from services.pipelines.fields import TEXT_PATTERN, SourceUrl
from services.pipelines.fields import Line as AnyLine
from services.pipelines.outreach_email.placeholders import has_marks, placeholder_names
from services.pipelines.sources import SourceStatus

MAX_SOURCES = 10
MAX_TEMPLATE_CHARS = 10_000


class TemplateType(StrEnum):
    """What the email is about."""

    RESEARCH = "research"
    BOOK = "book"
    GENERAL = "general"


def _invalid(*, kind: LiteralString, reason: str) -> PydanticCustomError:
    return PydanticCustomError(kind, "{reason}", {"reason": reason})


def _without_marks(text: str) -> str:
    if has_marks(text):
        reason = "This must not hold {{ or }}: placeholders belong into the template."
        raise _invalid(kind="placeholder_in_value", reason=reason)
    return text


def _with_placeholders(template: str) -> str:
    try:
        names = placeholder_names(template)
    except ValueError as error:
        raise _invalid(kind="malformed_placeholder", reason=str(error)) from error
    if not names:
        reason = "The template has no placeholder: write at least one, such as {{name}}."
        raise _invalid(kind="no_placeholder", reason=reason)
    return template


def _sender_of_name(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


Line = Annotated[AnyLine, AfterValidator(_without_marks)]
Address = Annotated[
    str,
    StringConstraints(max_length=254, pattern=r"^[^@\s{}<>]+@[^@\s{}<>]+\.[^@\s{}<>]+$"),
    Field(json_schema_extra={"format": "email"}),
]
Template = Annotated[
    str,
    StringConstraints(min_length=1, max_length=MAX_TEMPLATE_CHARS, pattern=TEXT_PATTERN),
    AfterValidator(_with_placeholders),
]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class Person(_Model):
    """Somebody who signs or receives the email."""

    name: Line
    """Full name, as it is to be written."""
    affiliation: Line | None = None
    """University, publisher, company."""
    email: Address | None = None
    """Email address; used only where the template asks for it."""


class Recipient(Person):
    """Whom the email is for."""

    interest: Line | None = None
    """What the recipient works on; for `research` it also chooses among arXiv papers."""


class OutreachInput(_Model):
    """An email to write: a template with gaps, whom it is for, and where to look."""

    template: Template
    """Text with placeholders such as `{{name}}`, `{{recipient.affiliation}}` or `{{recent paper}}`.

    Known from recipient and sender: name, affiliation, interest, email, sender, sender.affiliation,
    sender.email. Every other one is looked for in the sources, and left out if it is not there.
    """
    template_type: TemplateType
    """`research` also searches arXiv for the recipient's papers."""
    recipient: Recipient
    sources: tuple[SourceUrl, ...] = Field(default=(), max_length=MAX_SOURCES)
    """Web pages to read, at most 10, http or https. Private addresses are refused."""
    sender: (
        Annotated[Person, BeforeValidator(_sender_of_name, json_schema_input_type=Person | str)]
        | None
    ) = None
    """Who signs: a name, or an object with name, affiliation and email."""


class Gap(_Model):
    """A placeholder whose value is not known from the input."""

    placeholder: str
    question: str
    """What must be found out."""
    search_terms: tuple[str, ...] = ()
    """Words that a passage with the answer is likely to hold."""


class Brief(_Model):
    """What parse_template gives: the input, what is known and what must be found out."""

    input: OutreachInput
    known: dict[str, str]
    """Placeholder to value, from the input."""
    gaps: tuple[Gap, ...]
    unknowable: tuple[str, ...]
    """Placeholders about the sender that the input does not answer; no source can."""


class Source(_Model):
    """A page or a paper that was looked at."""

    id: int
    """1, 2, 3 …: what Claude cites."""
    url: str
    status: SourceStatus
    reason: str | None = None
    """Why it was not found."""
    title: str | None = None
    text: str = ""


class Findings(_Model):
    """What research gives: the brief and every source, found or not."""

    brief: Brief
    sources: tuple[Source, ...]


class SourceNote(_Model):
    """A source as the finished email's metadata shows it."""

    url: str
    status: SourceStatus
    reason: str | None = None
    title: str | None = None
    cited: bool = False
    """The email draws on it."""


class EmailMetadata(_Model):
    """How the email came about."""

    simulated: bool
    """True if the simulator wrote it, not Claude."""
    model: str
    sources: tuple[SourceNote, ...]
    filled: dict[str, str]
    """Placeholder to the value that stands in the email."""
    left_out: tuple[str, ...]
    """Placeholders for which nothing was found."""


class OutreachEmail(_Model):
    """The finished email."""

    email_id: UUID
    """The same for every try of the same run."""
    subject: str
    body: str
    template_type: TemplateType
    metadata: EmailMetadata
