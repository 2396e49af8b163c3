"""docs/adding-a-pipeline.md works as it is written."""

import re
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import services.pipelines
from services.pipelines.definition import WebPage
from tests.fakes.step_claude import ScriptedClaude
from tests.fakes.step_context import step_context
from tests.fakes.web import FakeWeb

PAGE = Path(__file__).parents[3] / "docs" / "adding-a-pipeline.md"
BLOCK = re.compile(r"```python\n# (?P<name>[\w./ ]+)\n(?P<code>.*?)```", re.DOTALL)


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """The page's files in a folder that `services.pipelines` looks into; the names they define."""
    blocks = dict(BLOCK.findall(PAGE.read_text("utf-8")))
    for name, code in blocks.items():
        if name.startswith("services/pipelines/"):
            file = tmp_path / name.removeprefix("services/pipelines/")
            file.parent.mkdir(exist_ok=True)
            file.write_text(code, "utf-8")
    monkeypatch.setattr(
        services.pipelines, "__path__", [*services.pipelines.__path__, str(tmp_path)]
    )
    names: dict[str, Any] = {}
    for module in ("schemas", "fetch_page", "digest_page", "pipeline"):
        names |= vars(import_module(f"services.pipelines.page_digest.{module}"))
    yield names | {
        "WebPage": WebPage,
        "ScriptedClaude": ScriptedClaude,
        "FakeWeb": FakeWeb,
        "step_context": step_context,
        "TEST": blocks["test"],
    }
    for name in [name for name in sys.modules if name.startswith("services.pipelines.page_digest")]:
        del sys.modules[name]
    del services.pipelines.page_digest  # type: ignore[attr-defined]  # the import set it


async def test_the_page_s_own_test_passes(written: dict[str, Any]) -> None:
    """The test that the page shows tests the steps that it shows."""
    exec(written["TEST"], written)  # noqa: S102 - our own documentation

    await written["test_a_page_becomes_a_digest"]()


def test_the_page_s_pipeline_fits_together(written: dict[str, Any]) -> None:
    """Its steps are in order and its example is a valid input."""
    pipeline = written["PAGE_DIGEST"]

    assert pipeline.step_names == ("fetch_page", "digest_page")
    assert pipeline.input_type.model_validate(pipeline.input_examples[0]).sentences == 2
