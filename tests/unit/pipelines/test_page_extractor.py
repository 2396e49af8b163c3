"""Text comes out of honest pages; hostile ones end their process and nothing else."""

import gc
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.core.errors import StepInputError
from services.pipelines.page_extractor import PageExtractor
from tests.fakes.data import read_data

ARTICLE = "<p>Ingrid Solheim studies how small-scale turbulence limits weather forecasts.</p>"


@pytest.fixture(scope="module")
def extractor() -> Iterator[PageExtractor]:
    """An extractor that gives up after a second of work."""
    extractor = PageExtractor(cpu_limit_s=1)
    yield extractor
    extractor.close()


def page(head: str = "", body: str = ARTICLE) -> str:
    return f"<!DOCTYPE html><html><head>{head}</head><body>{body}</body></html>"


@pytest.mark.parametrize(
    ("name", "title", "said", "unsaid"),
    [
        ("researcher.html", "Prof. Ingrid Solheim \u2013", "Nordlys Prize", "cookies"),
        ("author.html", "The Cartographer\u2019s Silence", "Tidewater Press in 2024", "Cart (0)"),
        ("workshop.html", "Who we are", "4,300 bicycles", "Donate"),
        ("hostile.html", "About me", "ignore all previous instructions", "<h1>"),
    ],
)
async def test_title_and_text_are_found(
    extractor: PageExtractor, name: str, title: str, said: str, unsaid: str
) -> None:
    """Real-looking pages give their article, without navigation, banners and scripts."""
    found_title, text = await extractor.extract(read_data(name).encode(), "utf-8")

    assert found_title.startswith(title)
    assert said in text
    assert unsaid not in text


@pytest.mark.parametrize(
    ("encoded_as", "declared"),
    [
        ("utf-8", "utf-8"),
        ("utf-8", None),
        ("utf-8", "no-such-charset"),
        ("utf-8", "ascii"),
        ("utf-8", "zip_codec"),
        ("latin-1", "iso-8859-1"),
        ("latin-1", None),
        ("latin-1", "utf-8"),
        ("utf-16", "utf-16"),
    ],
)
async def test_any_charset_is_read(
    extractor: PageExtractor, encoded_as: str, declared: str | None
) -> None:
    """A missing, unknown or wrong declaration is made up for."""
    body = "<p>Frau Müller aus Köln schätzt höfliche Grüße und süße Äpfel sehr.</p>" * 3
    raw = page("<title>Grüße</title>", body).encode(encoded_as)

    title, text = await extractor.extract(raw, declared)

    assert title == "Grüße"
    assert "Frau Müller aus Köln" in text


@pytest.mark.parametrize("raw", [b"", b"\0" * 1000, b"<" * 1000, b"\xff" * 1000, b"%PDF-1.7 \xe2"])
async def test_rubbish_gives_no_title(extractor: PageExtractor, raw: bytes) -> None:
    """Nothing is found, and the next page is read as ever."""
    assert (await extractor.extract(raw, None))[0] == ""
    assert "turbulence" in (await extractor.extract(page().encode(), None))[1]


@pytest.mark.parametrize(
    "html",
    [
        page(body="<p " + " ".join(f"a{number}=1" for number in range(200_000)) + ">x</p>"),
        page(body="<table><tr>" + "<td>a b c</td>" * 140_000 + "</tr></table>"),
    ],
    ids=["attributes", "cells"],
)
async def test_a_page_that_takes_minutes_is_given_up(extractor: PageExtractor, html: str) -> None:
    """The step goes on after the limit, and the next page is read."""
    with pytest.raises(StepInputError, match="too much time or memory"):
        await extractor.extract(html.encode(), "utf-8")

    assert "turbulence" in (await extractor.extract(page().encode(), "utf-8"))[1]


async def test_a_page_that_needs_too_much_memory_is_given_up(
    extractor: PageExtractor, capfd: pytest.CaptureFixture[str]
) -> None:
    """The process ends quietly, and the next page is read."""
    with pytest.raises(StepInputError, match="too much time or memory"):
        await extractor.extract(b" " * 300_000_000, "utf-8")

    assert "turbulence" in (await extractor.extract(page().encode(), "utf-8"))[1]
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("tag", ["div", "b", "table><tr><td", "ul><li", "svg", "blockquote"])
async def test_deep_nesting_is_survived(extractor: PageExtractor, tag: str) -> None:
    """A hundred thousand levels break nothing."""
    html = page(body=ARTICLE + f"<{tag}>" * 100_000)

    title, _ = await extractor.extract(html.encode(), "utf-8")

    assert title == ""


async def test_a_killed_process_is_replaced(extractor: PageExtractor) -> None:
    """Whatever ends the child between two pages, the next page starts another."""
    await extractor.extract(page().encode(), None)
    (child,) = extractor._children
    os.kill(child.pid, signal.SIGKILL)
    child.wait()

    assert "turbulence" in (await extractor.extract(page().encode(), None))[1]


async def test_the_process_sees_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its environment holds the import path and nothing else of the parent's."""
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-ant-secret")
    extractor = PageExtractor()

    await extractor.extract(page().encode(), None)

    (child,) = extractor._children
    environment = _environment_of(child.pid)
    assert environment.startswith(b"PYTHONPATH=")
    assert b"secret" not in environment
    extractor.close()


def _environment_of(pid: int) -> bytes:
    return Path(f"/proc/{pid}/environ").read_bytes()


async def test_a_forgotten_extractor_leaves_no_process() -> None:
    """Without close() the child ends with its reader."""
    extractor = PageExtractor()
    await extractor.extract(page().encode(), None)
    (child,) = extractor._children

    del extractor
    gc.collect()

    assert child.wait(timeout=10) == -signal.SIGKILL


async def test_closing_ends_the_process() -> None:
    """No child outlives the reader."""
    extractor = PageExtractor()
    await extractor.extract(page().encode(), None)
    (child,) = extractor._children

    extractor.close()

    assert child.poll() == -signal.SIGKILL
