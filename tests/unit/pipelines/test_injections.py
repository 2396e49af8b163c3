"""No page gets out of its fence: the prompts that are sent, for hostile pages, read token by token.

A run over a hostile page is compared with the same run over an honest one. Their prompts must have the same tags
in the same order, and where the honest page's words stand, exactly the hostile page's words must be read
back; everything else must be the same. Claude is taken to be at the page's service, too: it repeats the page
wherever an answer has room, so what later prompts hold of its answers is just as hostile.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import pytest
from pydantic import BaseModel

from services.core.claude.protocol import ClaudeRequest
from services.pipelines.definition import Pipeline, WebPage
from services.pipelines.extract_records.pipeline import EXTRACT_RECORDS
from services.pipelines.fences import escape, unescape
from services.pipelines.outreach_email.pipeline import OUTREACH_EMAIL
from services.pipelines.outreach_email.placeholders import without_marks
from services.pipelines.page_text import extract_text
from services.pipelines.registry import PIPELINES
from services.pipelines.sources import clean_text, clean_title
from services.pipelines.summarize_documents.pipeline import SUMMARIZE_DOCUMENTS
from services.pipelines.web import _plain_text
from tests.fakes.answering_claude import AnsweringClaude
from tests.fakes.injections import INJECTIONS, LONG_INJECTIONS, Injection
from tests.fakes.step_context import step_context
from tests.fakes.web import FakeWeb

HONEST = WebPage(url="https://honest.example/", title="HONESTTITLE", text="HONESTTEXT")
TAG = re.compile(r"(<[^<>]*>)")
OF_THE_PAGE = re.compile(r'<(?:document|source) id="1"[^>]*?(?: part="(?P<part>\d+)"[^>]*)?>')
SCHEMA = {
    "type": "object",
    "properties": {"title": {"type": "string", "maxLength": 3}},
    "required": ["title"],
}


@dataclass(frozen=True)
class Case:
    """A pipeline, an input with a page's address, and answers that repeat the page."""

    pipeline: Pipeline[Any]
    input_for: Callable[[str], dict[str, Any]]
    answer_with: Callable[[str, ClaudeRequest], dict[str, Any]]
    read: Callable[[str], str] = clean_text
    """What the pipeline's reading makes of a text."""
    cut: int | None = None
    """How much of a page the pipeline reads."""


def _email(text: str, request: ClaudeRequest) -> dict[str, Any]:
    if "<placeholders>" in request.prompt:
        return {"questions": [{"placeholder": "work", "question": "What?", "search_terms": []}]}
    return {"subject": "Hello", "body": "Dear Ada", "filled": [], "left_out": ["work"], "source_ids": []}  # fmt: skip


def _summary(text: str, request: ClaudeRequest) -> dict[str, Any]:
    return {"summary": text[:3000], "document_ids": [1]}


CASES = [
    Case(
        OUTREACH_EMAIL,
        lambda url: {
            "template": "Dear {{name}}, {{work}}",
            "template_type": "general",
            "recipient": {"name": "Ada"},
            "sources": [url],
        },
        _email,
        read=lambda text: without_marks(clean_text(text)),
        cut=8000,
    ),
    Case(
        SUMMARIZE_DOCUMENTS,
        lambda url: {"documents": [{"url": url}, {"text": "Another.", "title": "Mine"}]},
        _summary,
    ),
    Case(
        EXTRACT_RECORDS,
        lambda url: {"schema": SCHEMA, "urls": [url], "texts": ["Another."]},
        lambda text, request: {
            "records": [{"title": "ok"}] + [{"title": text}] * ("Another" not in request.prompt)
        },
    ),
]


def extracted(injection: Injection) -> WebPage:
    """The page as the real extraction gives it."""
    if injection.is_plain:
        return WebPage(injection.url, None, _plain_text(injection.raw))
    title, text = extract_text(injection.raw, "utf-8")
    return WebPage(injection.url, title or None, text)


async def requests_of(case: Case, page: WebPage) -> list[ClaudeRequest]:
    """All that is sent to Claude in a run over the page."""
    copied = escape(case.read(page.text))  # as it stands in the prompt
    claude = AnsweringClaude(lambda request: case.answer_with(copied, request))
    context = step_context(claude=claude, web=FakeWeb({page.url: page}))
    value: BaseModel = case.pipeline.input_type.model_validate(case.input_for(page.url))
    for step in case.pipeline.steps:
        checkpoint = value.model_dump(mode="json")
        value = await step.function(step.input_type.model_validate(checkpoint), context)
    return claude.requests


def tokens(prompt: str) -> list[str]:
    """Tags and the text between them; a `<` anywhere else is a leak."""
    found = TAG.split(prompt)
    assert not any("<" in text for text in found[::2]), "a < stands outside of the tags"
    return found


def check_tokens(sent: list[str], honest: list[str], said: dict[str, str]) -> None:
    """The same tokens, with the page's words in the place of the honest ones."""
    assert len(sent) == len(honest), "there are other tags than in an honest prompt"
    for number, (token, pattern) in enumerate(zip(sent, honest, strict=True)):
        if number and honest[number - 1] == "<error>":
            continue  # quotes a part of the record; that it holds no tag was checked
        expected = unescape(pattern)
        for honest_words, words in said.items():
            expected = expected.replace(honest_words, words)
        assert unescape(token) == expected


def words_of(case: Case, page: WebPage) -> dict[str, str]:
    """What stands in a prompt where an honest page has its words."""
    text, title = case.read(page.text), case.read(clean_title(page.title) or "")
    repeated = json.dumps({"title": text}, ensure_ascii=False)
    return {
        json.dumps({"title": HONEST.text}): repeated,
        HONEST.text: text,
        HONEST.title or "": title,
        HONEST.url: page.url,
    }


def test_the_set_is_large_enough() -> None:
    """Each of our pipelines that read pages, and each page once."""
    assert {case.pipeline.name for case in CASES} <= set(PIPELINES)
    assert len(INJECTIONS) + len(LONG_INJECTIONS) >= 50
    assert len({injection.name for injection in INJECTIONS}) == len(INJECTIONS)


@pytest.mark.parametrize("injection", INJECTIONS + LONG_INJECTIONS, ids=lambda each: each.name)
def test_the_attack_arrives(injection: Injection) -> None:
    """A page whose attack the extraction drops would test nothing; what is hidden does not arrive."""
    page = extracted(injection)
    said = f"{page.title}\n{page.text}\n{page.url}"

    assert injection.reaches in said
    assert not injection.absent or injection.absent not in said


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.pipeline.name)
@pytest.mark.parametrize("injection", INJECTIONS, ids=lambda each: each.name)
async def test_a_page_stays_in_its_fence(case: Case, injection: Injection) -> None:
    """And is read back there word for word; nothing else of the request depends on it."""
    page = extracted(injection)
    honest, sent = await requests_of(case, HONEST), await requests_of(case, page)

    assert [replace(request, prompt="") for request in honest] == [
        replace(request, prompt="") for request in sent
    ]
    for one, other in zip(sent, honest, strict=True):
        check_tokens(tokens(one.prompt), tokens(other.prompt), words_of(case, page))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.pipeline.name)
@pytest.mark.parametrize("injection", LONG_INJECTIONS, ids=lambda each: each.name)
async def test_a_long_page_stays_in_its_fences(case: Case, injection: Injection) -> None:
    """A cut never splits an escape, and the parts are the page again."""
    page = extracted(injection)
    honest, sent = await requests_of(case, HONEST), await requests_of(case, page)
    text = case.read(page.text)
    parts: dict[str, str] = {}
    for request in sent:
        assert set(_names(request)) <= {tag for one in honest for tag in _names(one)}
        assert request.system in {one.system for one in honest}
        assert request.shared in {one.shared for one in honest}
        found = tokens(request.prompt)
        for tag, inside in pairwise(found):
            if place := OF_THE_PAGE.match(tag):
                parts[place["part"] or "1"] = unescape(inside).removeprefix("\n").removesuffix("\n")

    if case.cut is None:
        assert "".join(parts.values()) == text
    else:
        assert 0 < len(parts["1"]) <= case.cut
        lines = {line[: case.cut] for line in text.splitlines()}
        assert set(parts["1"].splitlines()) <= lines


@pytest.mark.parametrize(
    "name", [injection.name for injection in INJECTIONS if "closes" in injection.name]
)
async def test_the_check_sees_a_leak(name: str) -> None:
    """Without the escape, each of these is found out."""
    (page,) = (extracted(each) for each in INJECTIONS if each.name == name)
    honest = f'<document id="1">{HONEST.text}</document>'
    leaking = honest.replace(HONEST.text, page.text)

    with pytest.raises(AssertionError, match=r"outside of the tags|other tags"):
        check_tokens(tokens(leaking), tokens(honest), words_of(CASES[1], page))


def _names(request: ClaudeRequest) -> list[str]:
    """The tags' names, in order."""
    return [tag.strip("<>").split()[0] for tag in tokens(request.prompt)[1::2]]
