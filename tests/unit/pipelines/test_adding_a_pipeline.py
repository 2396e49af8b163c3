"""docs/adding-a-pipeline.md is true as it is written: its commands are run, its files are written, in its order."""

import re
from pathlib import Path

import pytest

from tests.unit.pipelines.copied_repository import ROOT, copy_repository

PAGE = ROOT / "docs" / "adding-a-pipeline.md"
BLOCK = re.compile(r"^```(?P<kind>console|python|markdown)\n(?P<text>.*?)^```", re.DOTALL | re.MULTILINE)  # fmt: skip
FILE_NAME = re.compile(r"(?:# |<!-- )(?P<path>[\w./]+)(?: -->)?\n")


@pytest.mark.timeout(300)  # a type check without a cache, on a busy machine
def test_the_page_leads_to_a_tested_pipeline(tmp_path: Path) -> None:
    """From scaffold to test; lint, format and types pass too."""
    copy = copy_repository(tmp_path)
    commands, files = 0, 0
    for block in BLOCK.finditer(PAGE.read_text("utf-8")):
        if block["kind"] == "console":
            for line in block["text"].splitlines():
                copy.must_run(line.removeprefix("$ "))
                commands += 1
        else:
            name = FILE_NAME.match(block["text"])
            assert name, block["text"]
            file = tmp_path / name["path"]
            assert file.parent.is_dir()
            file.write_text(block["text"][name.end() :], "utf-8")
            files += 1

    assert (commands, files) == (7, 7)
    registry = (tmp_path / "services" / "pipelines" / "registry.py").read_text("utf-8")
    assert "    PAGE_DIGEST.name: PAGE_DIGEST,\n" in registry
