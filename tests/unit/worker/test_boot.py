"""How a worker starts."""

import subprocess
import sys


def test_what_a_worker_imports_is_never_looked_at_for_garbage() -> None:
    """It is set aside, and what comes later is collected as ever."""
    code = """
import gc
from services.worker import boot
print(gc.isenabled())
boot.end()
print(gc.isenabled(), gc.get_freeze_count() > 1_000, gc.get_threshold() == boot.THRESHOLDS)
"""
    command = [sys.executable, "-c", code]

    output = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout

    assert output.split() == ["False", "True", "True", "True"]


def test_a_start_imports_no_other_command_and_no_plugin() -> None:
    """Celery's shell, Flower, Pydantic's plugins and a second HTTP client would be a third of a start's imports."""
    code = """
import runpy, sys
try:
    runpy.run_module("services.worker", run_name="__main__")
except SystemExit as end:
    print(end.code, file=sys.stderr)
unwanted = ("celery.bin.celery", "click_repl", "prompt_toolkit", "flower", "tornado", "httpx", "sqlalchemy")
print([name for name in unwanted if name in sys.modules])
from pydantic.plugin._loader import get_plugins
print(list(get_plugins()))
"""
    command = [sys.executable, "-c", code, "--help"]

    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)

    *usage, unwanted, plugins = done.stdout.splitlines()
    assert usage[0] == "Usage: python -m services.worker [OPTIONS]"
    assert any("--concurrency" in line for line in usage)
    assert (unwanted, plugins) == ("[]", "[]")
