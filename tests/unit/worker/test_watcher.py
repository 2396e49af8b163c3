"""A parent that passes signals on, and ends as its child did."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
TRAP = "trap 'echo {name}' {name}; echo ready; while :; do sleep 0.05; done"
SIGNALS = ["TERM", "INT", "QUIT", "HUP", "USR1", "USR2"]


def _watch(*command: str) -> "subprocess.Popen[str]":
    """A watcher of a command."""
    return subprocess.Popen(
        [sys.executable, "-m", "services.worker.watcher", *command],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _end(watcher: "subprocess.Popen[str]") -> tuple[int, str]:
    """Its exit status and what it wrote."""
    out, err = watcher.communicate(timeout=20)
    return watcher.returncode, out + err


@pytest.mark.parametrize(
    ("end", "status"), [("exit 0", 0), ("exit 7", 7), ("kill -9 $$", 137), ("kill -11 $$", 139)]
)
def test_it_ends_as_its_child_did(end: str, status: int) -> None:
    """The container sees the worker's exit status; nothing is said of one that held no lease."""
    assert (status, "") == _end(_watch("sh", "-c", end))


def test_a_command_that_does_not_exist_is_told() -> None:
    """A typo in the Compose file ends in a line that names it."""
    status, text = _end(_watch("no-such-command"))

    assert 127 == status
    assert "no-such-command" in text


@pytest.mark.parametrize("name", SIGNALS)
def test_it_passes_signals_on_once(name: str) -> None:
    """Each comes to the child, once: a second SIGTERM would be a cold shutdown for Celery."""
    watcher = _watch("sh", "-c", TRAP.format(name=name))
    assert watcher.stdout is not None
    watcher.stdout.readline()

    watcher.send_signal(signal.Signals[f"SIG{name}"])
    told = watcher.stdout.readline()
    child = int(Path(f"/proc/{watcher.pid}/task/{watcher.pid}/children").read_text())
    time.sleep(0.2)
    subprocess.run(["kill", "-KILL", str(child)], check=True)
    status, rest = _end(watcher)

    assert (f"{name}\n", 137, "") == (told, status, rest)


def test_its_death_is_its_childs() -> None:
    """SIGKILL of the watcher leaves no worker behind that nobody looks after."""
    watcher = _watch("sh", "-c", "echo ready; exec sleep 60")
    assert watcher.stdout is not None
    watcher.stdout.readline()

    watcher.kill()

    # The pipes end when nobody holds them any more: neither the watcher nor its child.
    assert (-signal.SIGKILL, "") == _end(watcher)


def _watch_leaseholder(folder: Path, script: str) -> "subprocess.Popen[str]":
    """A watcher of a worker that holds leases and then does what the script says; its postmortem does nothing."""
    worker = (
        "import os, signal, sys, time\n"
        "from services.worker.flight_recorder import FlightRecorder\n"
        "FlightRecorder.of_this_process().begin('w1')\n"
        f"open({str(folder / 'starts')!r}, 'a').write('x')\n"
        f"{script}"
    )
    watcher = (
        "import sys, services.worker.watcher as w\n"
        "w.postmortem_command = lambda *_, **__: ['true']\n"
        f"sys.exit(w.main([sys.executable, '-c', {worker!r}]))"
    )
    return subprocess.Popen(
        [sys.executable, "-c", watcher],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_it_starts_a_worker_again_but_not_for_ever(tmp_path: Path) -> None:
    """Twenty that die at once, one after the other, are a defect: then it is the container's turn."""
    status, _ = _end(_watch_leaseholder(tmp_path, "os.kill(os.getpid(), signal.SIGKILL)"))

    assert (137, "x" * 20) == (status, (tmp_path / "starts").read_text())


def test_a_worker_that_dies_of_a_stop_is_not_started_again(tmp_path: Path) -> None:
    """Whoever stops the container gets it stopped, also if the worker holds leases at its end."""
    watcher = _watch_leaseholder(tmp_path, "print('ready', flush=True); time.sleep(60)")
    assert watcher.stdout is not None
    watcher.stdout.readline()

    watcher.terminate()
    status, _ = _end(watcher)

    assert (128 + signal.SIGTERM, "x") == (status, (tmp_path / "starts").read_text())


def test_it_stays_small() -> None:
    """It lives beside a worker for all its life: no Celery, no asyncio, no settings."""
    heavy = "{'asyncio', 'celery', 'config', 'pydantic', 'subprocess', 'uuid', 'logging'}"
    code = f"import sys, services.worker.watcher; print({heavy} & set(sys.modules))"

    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True
    )

    assert "set()\n" == done.stdout
