"""`make pipeline` writes a pipeline that works at once, or says why it does not and writes nothing."""

from pathlib import Path

import pytest

from services.pipelines.scaffold import ScaffoldError, scaffold
from tests.unit.pipelines.copied_repository import Copy, copy_repository

# The first and the last in the order of imports, and the longest: where lines move or break.
NAMES = ("aa", "z9", "z10", "twenty_eight_characters_long")


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Copy:
    return copy_repository(tmp_path_factory.mktemp("repository"))


def files_of(copy: Copy) -> dict[Path, str]:
    folders = (copy.root / "services" / "pipelines", copy.root / "tests" / "unit")
    return {
        path: path.read_text("utf-8")
        for folder in folders
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("", "no name"),
        ("My_pipeline", "no name"),
        ("my-pipeline", "no name"),
        ("_my", "no name"),
        ("my__pipeline", "no name"),
        ("my_pipeline_", "no name"),
        ("2nd", "no name"),
        ("../evil", "no name"),
        ("naïve", "no name"),
        ("class", "no name"),
        ("a" * 29, "no name"),
        ("outreach_email", "taken"),
        ("web", "taken"),
        ("pipelines", "has a PIPELINES already"),
    ],
)
def test_a_bad_or_taken_name_is_refused(copy: Copy, name: str, reason: str) -> None:
    """And nothing is written."""
    before = files_of(copy)

    with pytest.raises(ScaffoldError, match=reason):
        scaffold(name, copy.root)

    assert before == files_of(copy)


def test_the_command_says_what_it_wrote_or_why_not(copy: Copy) -> None:
    """For somebody at a terminal."""
    done, again = copy.run("make pipeline NAME=first"), copy.run("make pipeline NAME=first")

    assert done.stdout.splitlines() == [
        *(
            f"services/pipelines/first/{file}"
            for file in (
                "__init__.py",
                "ask.py",
                "pipeline.py",
                "prompts/__init__.py",
                "prompts/ask.system.md",
                "prompts/ask.user.md",
                "schemas.py",
            )
        ),
        "tests/unit/pipelines/first/__init__.py",
        "tests/unit/pipelines/first/test_ask.py",
        "services/pipelines/registry.py",
    ]
    assert done.returncode == 0
    assert again.returncode != 0
    assert "'first' is taken" in again.stderr


@pytest.mark.timeout(300)  # a type check without a cache, on a busy machine
def test_a_new_pipeline_passes_every_check_at_once(copy: Copy) -> None:
    """Lint, format, types, and its own test, whatever its name."""
    for name in NAMES:
        scaffold(name, copy.root)

    copy.must_run(".venv/bin/ruff check --no-cache services tests")
    copy.must_run(".venv/bin/ruff format --no-cache --check services tests")
    copy.must_run(".venv/bin/mypy " + " ".join(f"-p services.pipelines.{name}" for name in NAMES))
    copy.must_run(".venv/bin/pytest -q -p no:cacheprovider tests/unit/pipelines")
    registered = "import services.pipelines.registry as r; print(*r.PIPELINES)"
    assert set(NAMES) <= set(copy.run(f".venv/bin/python -c '{registered}'").stdout.split())
