"""Every source is noted, found or not; only an outage of all is worth another try."""

import pytest

from services.core.errors import StepInputError, StepTransientError
from services.pipelines.definition import WebPage
from services.pipelines.outreach_email.research import relevant_text, research
from services.pipelines.outreach_email.schemas import Brief, Gap, OutreachInput
from tests.fakes.data import read_data
from tests.fakes.step_context import ARXIV_URL, step_context
from tests.fakes.web import FakeWeb

PAGE = "https://example.org/page"
OTHER = "https://example.org/other"


def brief(*sources: str, template_type: str = "general", interest: str | None = None) -> Brief:
    outreach = OutreachInput.model_validate(
        {
            "template": "{{award}}",
            "template_type": template_type,
            "recipient": {"name": "Ingrid Solheim", "interest": interest},
            "sources": sources,
        }
    )
    gap = Gap(placeholder="award", question="Which award?", search_terms=("award", "Prize"))
    return Brief(input=outreach, known={}, gaps=(gap,), unknowable=())


async def test_pages_are_numbered_as_given() -> None:
    """Claude cites sources by number: 1, 2, 3 in the order of the input, each address once."""
    web = FakeWeb({PAGE: WebPage(PAGE, "A", "text a"), OTHER: WebPage(OTHER, None, "text b")})

    findings = await research(brief(OTHER, PAGE, OTHER), step_context(web=web))

    assert [(1, OTHER, None, "text b"), (2, PAGE, "A", "text a")] == [
        (source.id, source.url, source.title, source.text) for source in findings.sources
    ]


async def test_a_failing_source_is_noted_and_the_others_count() -> None:
    """Refused, absent and silent sources keep their reason; the step succeeds."""
    web = FakeWeb(
        {
            PAGE: WebPage(PAGE, "A", "text"),
            OTHER: StepTransientError("no complete answer within 10 s"),
            "http://10.0.0.1/": StepInputError("10.0.0.1 is not on the public internet"),
        }
    )

    findings = await research(brief(PAGE, OTHER, "http://10.0.0.1/"), step_context(web=web))

    assert [
        ("found", None),
        ("unreachable", "no complete answer within 10 s"),
        ("not_found", "10.0.0.1 is not on the public internet"),
    ] == [(source.status.value, source.reason) for source in findings.sources]


async def test_an_outage_of_everything_is_tried_again() -> None:
    """If nothing was found and something did not answer, waiting may help."""
    web = FakeWeb({PAGE: StepTransientError("it answered 503")})

    with pytest.raises(StepTransientError, match=r"no source answered: .*it answered 503"):
        await research(brief(PAGE, OTHER), step_context(web=web))


async def test_an_outage_does_not_matter_if_nothing_must_be_found_out() -> None:
    """An email whose placeholders the input fills needs no source."""
    web = FakeWeb({PAGE: StepTransientError("it answered 503")})
    filled = brief(PAGE).model_copy(update={"gaps": ()})

    findings = await research(filled, step_context(web=web))

    assert [source.status.value for source in findings.sources] == ["unreachable"]


async def test_sources_that_do_not_exist_are_not_tried_again() -> None:
    """If every source is gone for good, the email is written without them."""
    findings = await research(brief(PAGE, OTHER), step_context())

    assert ["not_found", "not_found"] == [source.status.value for source in findings.sources]


async def test_nothing_to_read_is_no_failure() -> None:
    """An email may rest on the input alone."""
    assert () == (await research(brief(), step_context())).sources


async def test_research_also_reads_arxiv() -> None:
    """Each paper by the recipient is a source of its own, the most fitting first."""
    web = FakeWeb(feed=read_data("arxiv.xml").encode())
    given = brief(template_type="research", interest="weather models")

    findings = await research(given, step_context(web=web))

    assert [
        "https://arxiv.org/abs/2613.00002v2",
        "https://arxiv.org/abs/2613.00001v1",
    ] == [source.url for source in findings.sources]
    assert [(ARXIV_URL, 'au:"Ingrid Solheim"')] == [
        (url, params["search_query"]) for url, params in web.feed_requests
    ]


@pytest.mark.parametrize("template_type", ["book", "general"])
async def test_other_emails_do_not_read_arxiv(template_type: str) -> None:
    """Only `research` is about papers."""
    web = FakeWeb()

    await research(brief(template_type=template_type), step_context(web=web))

    assert [] == web.feed_requests


async def test_a_silent_arxiv_does_not_fail_an_email_with_sources() -> None:
    """ArXiv is one source among others."""
    web = FakeWeb({PAGE: WebPage(PAGE, None, "text")}, feed=StepTransientError("it answered 503"))

    findings = await research(brief(PAGE, template_type="research"), step_context(web=web))

    assert ["found", "unreachable"] == [source.status.value for source in findings.sources]


async def test_a_recipient_without_papers_is_noted() -> None:
    """The metadata says that arXiv was asked."""
    web = FakeWeb(feed=read_data("arxiv_error.xml").encode())

    (source,) = (await research(brief(template_type="research"), step_context(web=web))).sources

    assert (ARXIV_URL, "not_found") == (source.url, source.status.value)
    assert source.reason == "arXiv lists no paper by that name"


async def test_what_a_page_says_is_stored_without_marks_or_control_characters() -> None:
    """PostgreSQL takes no NUL in JSON, and a page must not name placeholders."""
    web = FakeWeb({PAGE: WebPage(PAGE, "{{title}}\x00", "a\x00b\x1b[31m {{{{secret}}}}\nline")})

    (source,) = (await research(brief(PAGE), step_context(web=web))).sources

    assert "{title}" == source.title
    assert "a b [31m {secret}\nline" == source.text


def test_short_text_is_kept_whole() -> None:
    """Nothing is cut that fits."""
    assert "a\n\n b" == relevant_text("a\n\n b", ["x"], max_chars=10)


def test_of_long_text_the_paragraphs_with_the_search_terms_are_kept() -> None:
    """They stay in the page's order, and the limit is kept."""
    text = "\n".join(["filler " * 5, "She won the Nordlys PRIZE.", "filler " * 9, "An award."] * 3)

    kept = relevant_text(text, ["award", "prize"], max_chars=115)

    assert kept.splitlines()[:2] == ["She won the Nordlys PRIZE.", "An award."]
    assert "filler" not in kept
    assert len(kept) <= 115


def test_a_single_endless_line_is_cut() -> None:
    """Text without line breaks is bounded too."""
    assert 0 < len(relevant_text("word " * 10_000, ["word"], max_chars=100)) <= 100
