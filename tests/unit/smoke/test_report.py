"""The smoke test says how each check went, and its exit status tells."""

import io

import pytest

from tests.smoke.__main__ import read_variables
from tests.smoke.report import Check, SkippedError, run_checks


def _passes() -> str:
    return "all\nwell"


def _skips() -> str:
    raise SkippedError("no token")


def _fails() -> str:
    raise ConnectionError("refused redis://:hunter2@localhost:6379/0")


class Terminal(io.StringIO):
    """A terminal."""

    def isatty(self) -> bool:
        """It is one."""
        return True


@pytest.mark.parametrize(
    ("checks", "status"),
    [([_passes], 0), ([_passes, _skips], 0), ([_fails, _passes], 1), ([], 0)],
)
def test_only_a_failure_is_a_failure(checks: list[Check], status: int) -> None:
    """The exit status is 1 if any check failed; skipping is allowed."""
    assert status == run_checks([("x", check) for check in checks], out=io.StringIO())


def test_each_check_gets_a_line_whatever_became_of_the_others() -> None:
    """Mark, word, name, detail on one line and duration; then the counts; no secrets."""
    out = io.StringIO()
    run_checks([("Redis", _fails), ("Logfire", _skips), ("Beat", _passes)], out=out)

    assert out.getvalue().splitlines() == [
        "✗ FAIL  Redis                    ConnectionError: refused redis://[redacted]@localhost:6379/0 (0.0 s)",
        "⚠ SKIP  Logfire                  no token (0.0 s)",
        "✓ PASS  Beat                     all well (0.0 s)",
        "1 pass, 1 fail, 1 skip",
    ]


def test_colours_are_for_terminals_only() -> None:
    """A log of the smoke test has no escape sequences."""
    terminal, log = Terminal(), io.StringIO()
    for out in (terminal, log):
        run_checks([("Beat", _passes)], out=out)

    assert "\x1b[32m✓ PASS\x1b[0m" in terminal.getvalue()
    assert "\x1b" not in log.getvalue()


def test_variables_come_from_the_env_file_and_from_the_process(tmp_path) -> None:
    """The process's own variables win; published ports are those of this machine; empty lines count as none."""
    env_file = tmp_path / ".env"
    env_file.write_text(
        "REDIS_PORT=6379\nREDIS_PUBLISH_PORT=7000\nPOSTGRES_PUBLISH_PORT=7001\n"
        "FLOWER_PASSWORD='a b#c'\nLOGFIRE_TOKEN=\n"
    )

    variables = read_variables(env_file, {"POSTGRES_PORT": "9", "HOME": "/root"})

    assert variables == {
        "REDIS_PORT": "7000",
        "REDIS_PUBLISH_PORT": "7000",
        "POSTGRES_PORT": "9",
        "POSTGRES_PUBLISH_PORT": "7001",
        "FLOWER_PASSWORD": "a b#c",
        "HOME": "/root",
    }
