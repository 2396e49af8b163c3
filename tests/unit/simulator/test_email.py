"""services.simulator.email: the template completed, or the sentence dropped."""

from typing import Any

import pytest

from services.simulator.email import compose_email
from services.simulator.material import Material

SOURCE = '<source id="4">\nMission: to lend gauges\nCity: Kestrel Bridge\n</source>'


def compose(template: str, *, rest: str = SOURCE) -> dict[str, Any]:
    """The email for a template."""
    email = compose_email(Material(f"<template>\n{template}\n</template>\n{rest}"))
    assert email is not None
    return email


def test_a_placeholder_is_filled_and_cited():
    """Value, source and subject agree."""
    email = compose("Subject: On {{ city }}\n\nDear friends,\n\nGreetings to {{city}}.")

    assert email == {
        "subject": "On Kestrel Bridge",
        "body": "Dear friends,\n\nGreetings to Kestrel Bridge.",
        "filled": [{"placeholder": "city", "value": "Kestrel Bridge", "source_id": 4}],
        "left_out": [],
        "source_ids": [4],
    }


@pytest.mark.parametrize(
    ("template", "body"),
    [
        (
            "Hi all,\n\nWe met in {{pub}}. You live in {{city}}.",
            "Hi all,\n\nYou live in Kestrel Bridge.",
        ),
        ("One.\n\nYou said {{quote}} in {{city}}!\n\nTwo.", "One.\n\nTwo."),
        ("Dear {{title}} Marsh,\nHello.", "Dear Marsh,\nHello."),
        ("Dear {{first_name}},\nHello.", "Hello,\nHello."),
        ("Regards\n{{sender}}\n{{sender.title}}", "Regards"),
        ("Your {{dog}} is great.", "Your is great."),
        ("{{dog}}", "Hello,"),
        ("Is it 3.14? {{dog}} knows. Dr. No does not.", "Is it 3.14? Dr. No does not."),
    ],
)
def test_what_cannot_be_said_is_left_out(template, body):
    """A sentence goes with its gap, a greeting stays, and something is always left."""
    email = compose(template)

    assert body == email["body"]
    assert "{{" not in email["subject"]


def test_a_value_that_went_with_its_sentence_is_not_claimed():
    """Only what stands in the email counts as filled."""
    email = compose("Subject: Hello\n\nYou said {{quote}} in {{city}}! Bye.")

    assert email["filled"] == []
    assert email["source_ids"] == []
    assert sorted(email["left_out"]) == ["city", "quote"]


def test_what_the_prompt_says_to_leave_out_is_left_out():
    """Even if a source would have it."""
    email = compose(
        "You live in {{city}}. Bye.",
        rest=f"<leave_out>\n<placeholder>city</placeholder>\n</leave_out>{SOURCE}",
    )

    assert email["body"] == "Bye."
    assert email["left_out"] == ["city"]


@pytest.mark.parametrize(
    ("template", "rest", "subject"),
    [
        ("In {{city}}.", SOURCE, "About Kestrel Bridge"),
        ("Nothing.", "<recipient>\nname: Ada\n</recipient>", "A note for Ada"),
        ("Nothing.", "", "A note"),
        ("Subject: {{dog}} news\n\nBye.", "", "A note"),
    ],
)
def test_a_subject_is_made_where_the_template_has_none(template, rest, subject):
    """From what the email is about, or whom it is for."""
    assert subject == compose(template, rest=rest)["subject"]


def test_a_prompt_without_a_template_asks_for_no_email():
    """Other structured answers are built from the schema alone."""
    assert compose_email(Material("<note>Hello</note>")) is None
