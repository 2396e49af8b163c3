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
