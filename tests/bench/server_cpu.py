"""The processes of the PostgreSQL that a benchmark uses, in a container or embedded."""

import subprocess
from pathlib import Path

from config.postgres import PostgresSettings
from tests.bench.stack import Process
from tests.integration import servers


def postgres_process(settings: PostgresSettings) -> Process:
    """The server's first process; its CPU is that of the whole server."""
    find = _in_container if servers.uses_containers() else _embedded
    return Process(find(settings.port), boot_s=0)


def _in_container(port: int) -> int:
    container = _output("docker", "ps", "--quiet", "--filter", f"publish={port}")
    return int(_output("docker", "inspect", "--format", "{{.State.Pid}}", container))


def _embedded(port: int) -> int:
    """Found by its command line."""
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        words = file.read_bytes().split(b"\0")
        if words[0].endswith(b"postgres") and str(port).encode() in words:
            return int(file.parent.name)
    raise LookupError(port)


def _output(*command: str) -> str:
    return subprocess.run(
        command, check=True, capture_output=True, text=True, timeout=30
    ).stdout.strip()
