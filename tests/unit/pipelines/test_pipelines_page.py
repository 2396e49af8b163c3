"""docs/pipelines.md is true: what it posts gives what it shows."""

import json
import re
from importlib.resources import files
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from services.pipelines.definition import StepContext, WebPage
from services.pipelines.page_text import extract_text
from services.pipelines.registry import PIPELINES
from tests.fakes.simulated_claude import SimulatedClaude
from tests.fakes.web import FakeWeb

PAGE = (Path(__file__).parents[3] / "docs" / "pipelines.md").read_text("utf-8")
EXAMPLE = re.compile(
    r"^## (?P<name>\w+)$.*?-d '(?P<posted>\{.*?\})'\n```\n.*?```json\n(?P<given>.*?)```",
    re.DOTALL | re.MULTILINE,
)
EXAMPLES = list(EXAMPLE.finditer(PAGE))
SAMPLES = "http://simulator:8080/samples/"


def sample_web() -> FakeWeb:
    """The simulator's sample pages, as they are extracted."""
    pages = {}
    for name in ("researcher.html", "organisation.html"):
        raw = files("services.simulator").joinpath("pages", name).read_bytes()
        pages[SAMPLES + name] = WebPage(SAMPLES + name, *extract_text(raw, "utf-8"))
    return FakeWeb(pages)


def test_the_page_shows_the_pipelines() -> None:
    """Those that come with Penstock, by their names."""
    shown = [example["name"] for example in EXAMPLES]

    assert len(shown) == len(set(shown)) == 3
    assert set(shown) <= set(PIPELINES)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example["name"])
async def test_what_it_posts_gives_what_it_shows(example: re.Match[str]) -> None:
    """To the letter, with the simulator's answers."""
    posted = json.loads(example["posted"])
    assert posted["pipeline"] == example["name"]
    pipeline = PIPELINES[posted["pipeline"]]
    context = StepContext(UUID(int=1), "step", 1, SimulatedClaude(), sample_web(), "")
    value: Any = pipeline.input_type.model_validate(posted["input"])

    for step in pipeline.steps:
        checkpoint = value.model_dump_json()
        value = await step.function(step.input_type.model_validate_json(checkpoint), context)

    assert json.loads(example["given"]) == value.model_dump(mode="json")
