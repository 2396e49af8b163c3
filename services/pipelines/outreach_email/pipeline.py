"""The outreach_email pipeline."""

from services.pipelines.definition import EmailDraft, Pipeline, Step
from services.pipelines.outreach_email.compose_email import compose_email
from services.pipelines.outreach_email.parse_template import parse_template
from services.pipelines.outreach_email.research import research
from services.pipelines.outreach_email.schemas import OutreachEmail


def email_of(email: OutreachEmail) -> EmailDraft:
    """The output as table `emails` stores it."""
    return EmailDraft(
        id=email.email_id,
        template_type=email.template_type.value,
        subject=email.subject,
        body=email.body,
        metadata=email.metadata.model_dump(mode="json"),
    )


OUTREACH_EMAIL = Pipeline(
    name="outreach_email",
    description=(
        "Writes an outreach email from a template: finds out what its placeholders need from the "
        "given sources (and arXiv), completes it, and leaves out what was not found."
    ),
    steps=(Step(parse_template), Step(research), Step(compose_email)),
    email_of=email_of,
    input_examples=(
        {
            "template": (
                "Subject: Your talk at our seminar\n\nDear {{name}},\n\n"
                "I read your paper {{recent paper title}} and would like to invite you to speak "
                "about {{interest}} at our seminar.\n\nKind regards,\n{{sender}}"
            ),
            "template_type": "research",
            "recipient": {
                "name": "Ada Lovelace",
                "affiliation": "University of London",
                "interest": "analytical engines",
            },
            "sources": ["https://en.wikipedia.org/wiki/Ada_Lovelace"],
            "sender": {"name": "Charles Babbage", "affiliation": "Trinity College"},
        },
        {
            "template": (
                "Dear {{name}},\n\nYour book {{book title}} helped us a lot. "
                "May we quote it in our newsletter?\n\n{{sender}}"
            ),
            "template_type": "book",
            "recipient": {"name": "Grace Hopper"},
            "sender": "The newsletter team",
        },
        {
            "template": "Hello {{name}}, how is {{recipient.affiliation}} these days? {{sender}}",
            "template_type": "general",
            "recipient": {"name": "Alan Turing", "affiliation": "King's College"},
            "sender": "Joan",
        },
    ),
)
