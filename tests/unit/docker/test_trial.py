"""Stacks for a test run: all of them are up while the command runs, and gone afterwards."""

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from local.trial import Trial, run_trials

SHOW = "import os, pathlib; pathlib.Path('seen').write_text(os.environ['PENSTOCK_E2E_STACKS'])"


@dataclass
class FakeTrial:
    """Says what was done to it."""

    name: str
    root: Path
    done: list[str] = field(default_factory=list)

    @property
    def environment(self) -> dict[str, str]:
        return {"PATH": "", "COMPOSE_PROJECT_NAME": self.name}

    @property
    def own_environment(self) -> dict[str, str]:
        return {"COMPOSE_PROJECT_NAME": self.name}

    def prepare(self, settings: list[str]) -> None:
        self.done.append(f"prepare {' '.join(settings)}")

    def do(self, verb: str) -> None:
        self.done.append(verb)

    def save_logs(self) -> Path:
        self.done.append("logs")
        return self.root / self.name


@pytest.fixture
def trials(tmp_path: Path) -> list[FakeTrial]:
    return [FakeTrial("first", tmp_path), FakeTrial("second", tmp_path)]


def run(trials: list[FakeTrial], monkeypatch: pytest.MonkeyPatch, code: str) -> int:
    monkeypatch.setattr(Trial, "start", lambda trial: (trial.do("build"), trial.do("up")))
    return run_trials(trials, [sys.executable, "-c", code], settings=iter(["A=1"]))  # type: ignore[arg-type]  # fakes


def test_a_command_is_told_of_every_stack(
    trials: list[FakeTrial], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Each is prepared with the same settings, and gone when the command has ended."""
    status = run(trials, monkeypatch, SHOW)

    told = json.loads((tmp_path / "seen").read_text())
    assert [{"COMPOSE_PROJECT_NAME": name} for name in ("first", "second")] == told
    assert status == 0
    assert all(["prepare A=1", "build", "up", "down"] == trial.done for trial in trials)


def test_a_failed_command_leaves_the_logs_of_all(
    trials: list[FakeTrial],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    """Its exit status is kept, and one line says where the logs are."""
    status = run(trials, monkeypatch, "raise SystemExit(3)")

    assert status == 3
    assert all(["logs", "down"] == trial.done[-2:] for trial in trials)
    assert f"{tmp_path / 'first'} {tmp_path / 'second'}\n" in capsys.readouterr().err


def test_only_what_tells_trials_apart_is_their_own(tmp_path: Path) -> None:
    """Compose's variables and ours; everything else is the shell's, and the same for all."""
    trial = Trial("compose", name="x", root=tmp_path, tree=None, shell={"PATH": "/bin"})  # noqa: S604 - a mapping, no flag
    trial.prepare([])

    own = trial.own_environment

    assert own["COMPOSE_PROJECT_NAME"].endswith("-x")
    assert own["PENSTOCK_E2E_RUN_DIR"] == str(trial.folder)
    assert own.items() < trial.environment.items()
    assert "PATH" not in own
