"""A program here is a whole family of processes, as a container is."""

import signal
import subprocess
import sys

from local.processes import family_of, signal_family

PARENT = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import time; print(1, flush=True); time.sleep(60)"])
child.wait()
"""


def test_a_signal_reaches_the_whole_family() -> None:
    """Also those that have a process group of their own, as PostgreSQL's backends have."""
    command = [sys.executable, "-c", PARENT]
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as parent:
        assert parent.stdout is not None
        parent.stdout.readline()
        family = family_of(parent.pid)

        signal_family(parent.pid, signal.SIGKILL)
        parent.stdout.read()  # ends when the child has ended too

    assert 2 == len(family)
    assert parent.pid in family
