"""Step 1: what the template needs, and what of it must be found out."""

import re

from pydantic import BaseModel, Field

from services.core.claude.protocol import ClaudeRequest
from services.pipelines.definition import StepContext
from services.pipelines.fences import Fenced, element, escape, lines
from services.pipelines.outreach_email.placeholders import fill, placeholder_names
from services.pipelines.outreach_email.prompts import PROMPTS
from services.pipelines.outreach_email.schemas import Brief, Gap, OutreachInput, Person

MAX_TOKENS = 2048
MAX_SEARCH_TERMS = 6


class PlaceholderQuestion(BaseModel):
    """What must be found out for one placeholder."""

    placeholder: str = Field(description="The placeholder's name, as given, without braces")
    question: str = Field(description="One short question that a web page could answer")
    search_terms: list[str] = Field(description="Two to six words that the answer's passage holds")


class TemplateQuestions(BaseModel):
    """Claude's answer: a question for each placeholder."""

    questions: list[PlaceholderQuestion]


async def parse_template(outreach: OutreachInput, context: StepContext) -> Brief:
    """Fill what the input answers and say what must be found out for the rest.

    Claude is asked only if something must be found out.
    """
    names = placeholder_names(outreach.template)
    about_input = {name: _canonical(name) for name in names}
    answers = _input_answers(outreach)
    known = {name: answers[field] for name, field in about_input.items() if field in answers}
    unknowable = tuple(
        name
        for name, field in about_input.items()
        if name not in known and field.split("_")[0] == "sender"
    )
    wanted = tuple(name for name in names if name not in known and name not in unknowable)
    gaps = await _ask_questions(outreach, known, wanted, context) if wanted else ()
    return Brief(input=outreach, known=known, gaps=gaps, unknowable=unknowable)


def describe_person(person: Person | None) -> Fenced:
    """What the prompts say about a person, one `field: value` a line; no email address."""
    if person is None:
        return escape("")
    fields = person.model_dump(include={"name", "affiliation", "interest"}, exclude_none=True)
    return escape("\n".join(f"{field}: {value}" for field, value in fields.items()))


def _canonical(name: str) -> str:
    """One spelling for each input field: recipient.name, Recipient-Name and full_name are name."""
    key = re.sub(r"[\W_]+", "_", name.casefold()).strip("_")
    if key in {"recipient", "full_name"}:
        return "name"
    if key == "sender":
        return "sender_name"
    return key.removeprefix("recipient_")


def _input_answers(outreach: OutreachInput) -> dict[str, str]:
    answers: dict[str, str] = outreach.recipient.model_dump(exclude_none=True)
    if outreach.sender is not None:
        sender = outreach.sender.model_dump(exclude_none=True)
        answers |= {f"sender_{field}": value for field, value in sender.items()}
    return answers


async def _ask_questions(
    outreach: OutreachInput, known: dict[str, str], wanted: tuple[str, ...], context: StepContext
) -> tuple[Gap, ...]:
    prompt = PROMPTS.user(
        "parse_template",
        template_type=escape(outreach.template_type),
        template=escape(fill(outreach.template, known)),
        recipient=describe_person(outreach.recipient),
        placeholders=lines(*(element("placeholder", name) for name in wanted)),
    )
    system = PROMPTS.system("parse_template")
    request = ClaudeRequest(
        system=system, prompt=prompt, max_tokens=MAX_TOKENS, allows_fallback=True
    )
    reply = await context.claude.ask(request, TemplateQuestions)
    asked = {question.placeholder: question for question in reply.answer.questions}
    return tuple(_gap(name, asked.get(name)) for name in wanted)


def _gap(name: str, asked: PlaceholderQuestion | None) -> Gap:
    """The gap, with its own words as the question where Claude gave none.

    The question only guides the search, so a missing one is not worth a second paid call.
    """
    words = " ".join(re.findall(r"[^\W_]+", name))
    if asked is None or not asked.question.strip():
        return Gap(placeholder=name, question=f"{words}?", search_terms=(words,))
    terms = tuple(term.strip() for term in asked.search_terms if term.strip())
    return Gap(
        placeholder=name,
        question=asked.question.strip(),
        search_terms=terms[:MAX_SEARCH_TERMS] or (words,),
    )
