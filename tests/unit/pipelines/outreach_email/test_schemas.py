"""Only input that can become an email is accepted, and each refusal says where and why."""

from typing import Any

import pytest
from pydantic import ValidationError

from services.pipelines.outreach_email.schemas import OutreachInput


def outreach(**changes: Any) -> dict[str, Any]:
    return {
        "template": "Dear {{name}}",
        "template_type": "general",
        "recipient": {"name": "Ada"},
    } | changes


def refusal(**changes: Any) -> tuple[tuple[str | int, ...], str]:
    with pytest.raises(ValidationError) as refused:
        OutreachInput.model_validate(outreach(**changes))
    (error,) = refused.value.errors()
    return error["loc"], error["msg"]


def test_a_template_without_placeholders_is_refused_with_the_remedy() -> None:
    """The message shows what to write."""
    expected = "The template has no placeholder: write at least one, such as {{name}}."

    assert (("template",), expected) == refusal(template="Dear all")


@pytest.mark.parametrize("template", ["Dear {{name", "Dear {{}}", "Dear {{na{me}}"])
def test_a_malformed_placeholder_is_an_error_of_the_template(template: str) -> None:
    """The error points at the template and says what a placeholder is."""
    place, message = refusal(template=template)

    assert ("template",) == place
    assert "laceholder" in message


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"template": "{{name}}" + "x" * 10_000}, ("template",)),
        ({"template": "{{name}} \x00"}, ("template",)),
        ({"template_type": "spam"}, ("template_type",)),
        ({"recipient": {"name": " "}}, ("recipient", "name")),
        ({"recipient": {"name": "A\r\nBcc: all@example.org"}}, ("recipient", "name")),
        ({"recipient": {"name": "{{secret}}"}}, ("recipient", "name")),
        ({"recipient": {"name": "Ada", "email": "ada"}}, ("recipient", "email")),
        ({"recipient": {"name": "Ada", "age": 36}}, ("recipient", "age")),
        ({"sources": ["http://example.org"] * 11}, ("sources",)),
        ({"sources": ["ftp://example.org/"]}, ("sources", 0)),
        ({"sources": ["file:///etc/passwd"]}, ("sources", 0)),
        ({"sources": ["http://me:secret@example.org/"]}, ("sources", 0)),
        ({"sources": ["https://example.org/" + "x" * 2000]}, ("sources", 0)),
        ({"sender": ""}, ("sender", "name")),
        ({"unknown": 1}, ("unknown",)),
    ],
)
def test_limits_are_kept(changes: dict[str, Any], place: tuple[str | int, ...]) -> None:
    """Each wrong field is named by its place."""
    assert place == refusal(**changes)[0]


def test_a_sender_may_be_a_name_or_a_person() -> None:
    """A plain string is the sender's name."""
    plain = OutreachInput.model_validate(outreach(sender="Joan"))
    person = OutreachInput.model_validate(outreach(sender={"name": "Joan"}))

    assert person == plain


def test_sources_stay_as_they_were_written() -> None:
    """A client finds its own spelling in the email's metadata."""
    url = "https://example.org"

    assert (url,) == OutreachInput.model_validate(outreach(sources=[url])).sources


def test_a_checkpoint_reads_back_as_it_was() -> None:
    """JSON and back changes nothing."""
    before = OutreachInput.model_validate(outreach(sender="Joan", sources=["https://example.org"]))

    assert before == OutreachInput.model_validate(before.model_dump(mode="json"))
