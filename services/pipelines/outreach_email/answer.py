"""Claude's answer to compose_email, and what of it can be checked without Claude.

Every value must stand in the source that it cites; every number, link and address in the email
must come from the template, the input or such a value. A page's other links do not count: the page
may be hostile.
"""

import re
from collections.abc import Iterator

from pydantic import BaseModel, Field

from services.core.errors import ClaudeMalformedAnswerError
from services.pipelines.outreach_email.placeholders import fill, has_marks
from services.pipelines.outreach_email.schemas import Brief, Findings
from services.pipelines.sources import SourceStatus

# A single digit may be a list's number.
NUMBER = re.compile(r"\d{2,}")
LINK = re.compile(
    r"(?:https?://|www\.)[^\s<>\"')\]]+"
    r"|(?:[\w-]+\.)+[a-z]{2,}/[^\s<>\"')\]]*"
    r"|[\w.+-]+@[\w-]+(?:\.[\w-]+)+"
)
# Single quotes, double quotes, dashes.
TYPOGRAPHY = str.maketrans("\u2018\u2019\u201a\u201c\u201d\u201e\u2013\u2014\u2011", "'''\"\"\"---")


class FilledPlaceholder(BaseModel):
    """A placeholder that was filled, and from where."""

    placeholder: str = Field(description="The placeholder's name, without braces")
    value: str = Field(description="Exactly as it stands in the email and in the source")
    source_id: int | None = Field(description="The source's id; null: from recipient or sender")


class ComposedEmail(BaseModel):
    """The email and what it rests on."""

    subject: str
    body: str
    filled: list[FilledPlaceholder]
    left_out: list[str] = Field(description="Names of all placeholders that were not filled")
    source_ids: list[int] = Field(description="Ids of all sources that the email draws on")


def check_answer(composed: ComposedEmail, findings: Findings) -> None:
    """Accept an email that is complete and rests on what was given.

    Raises:
        ClaudeMalformedAnswerError: It does not; the message lists every reason.
    """
    problems = [
        *_form_problems(composed),
        *_placeholder_problems(composed, findings.brief),
        *_source_problems(composed, findings),
        *_invention_problems(composed, findings),
    ]
    if problems:
        raise ClaudeMalformedAnswerError(f"the email cannot be used: {'; '.join(problems)}")


def _form_problems(composed: ComposedEmail) -> Iterator[str]:
    for part, text in (("subject", composed.subject), ("body", composed.body)):
        if not text.strip():
            yield f"the {part} is empty"
        if has_marks(text):
            yield f"the {part} still holds a placeholder"


def _placeholder_problems(composed: ComposedEmail, brief: Brief) -> Iterator[str]:
    gaps = {gap.placeholder for gap in brief.gaps}
    filled = {entry.placeholder for entry in composed.filled}
    left_out = set(composed.left_out) & gaps
    for name in sorted(filled - gaps):
        yield f"{name!r} was filled, but nobody asked for it"
    for name in sorted(filled & left_out):
        yield f"{name!r} is both filled and left out"
    for name in sorted(gaps - filled - left_out):
        yield f"{name!r} is neither filled nor left out"


def _source_problems(composed: ComposedEmail, findings: Findings) -> Iterator[str]:
    texts = {
        source.id: _comparable(f"{source.title or ''}\n{source.text}\n{source.url}")
        for source in findings.sources
        if source.status is SourceStatus.FOUND
    }
    for source_id in sorted(set(composed.source_ids) - set(texts)):
        yield f"source {source_id} was not given"
    given = _comparable("\n".join(_input_texts(findings.brief)))
    email = _comparable(f"{composed.subject}\n{composed.body}")
    for entry in composed.filled:
        value = _comparable(entry.value)
        origin = given if entry.source_id is None else texts.get(entry.source_id, "")
        if not value or value not in origin:
            yield f"the value of {entry.placeholder!r} does not stand in source {entry.source_id}"
        if value not in email:
            yield f"the value of {entry.placeholder!r} does not stand in the email"


def _invention_problems(composed: ComposedEmail, findings: Findings) -> Iterator[str]:
    brief = findings.brief
    allowed = _comparable(
        "\n".join(
            (
                fill(brief.input.template, brief.known),
                *_input_texts(brief),
                *(entry.value for entry in composed.filled),
                *(source.url for source in findings.sources),
            )
        )
    )
    email = _comparable(f"{composed.subject}\n{composed.body}")
    for number in sorted(set(NUMBER.findall(email)) - set(NUMBER.findall(allowed))):
        yield f"nobody gave the number {number}"
    for link in sorted(_links(email) - _links(allowed)):
        yield f"nobody gave the link or address {link}"


def _links(text: str) -> set[str]:
    return {link.rstrip(".,;:!?/") for link in LINK.findall(text)}


def _input_texts(brief: Brief) -> Iterator[str]:
    for person in (brief.input.recipient, brief.input.sender):
        if person is not None:
            yield from person.model_dump(exclude_none=True).values()


def _comparable(text: str) -> str:
    """The text without what a copy may change: case, line breaks, typographic quotes and dashes."""
    return " ".join(text.translate(TYPOGRAPHY).split()).casefold()
