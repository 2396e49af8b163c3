"""What a result depends on: settings, versions, the machine."""

import os
import platform
import subprocess
from typing import Any, Final

from tests.chaos.scene import Scene

SETTINGS: Final = {
    "CELERY_LEASE_TTL_S": "30",
    "CELERY_SWEEP_INTERVAL_S": "3",
    "CELERY_REHINT_AFTER_S": "10",
    "CELERY_CONCURRENCY": "200",
    "CELERY_ISOLATED_CONCURRENCY": "4",
    "CELERY_MAX_CRASHES": "3",
    "CELERY_SHUTDOWN_GRACE_S": "25",
    "CELERY_RETRY_BACKOFF_S": "1",
    "ANTHROPIC_TIMEOUT_S": "120",
    "ANTHROPIC_BREAKER_PAUSE_S": "30",
}
"""Settings that decide how fast things recover, and their defaults."""
TESTED: Final = ("config", "services", "docker", "compose.yaml", "requirements", "tests/chaos")
VERSIONS: Final = (
    "python -c \"import platform; from importlib.metadata import version as v; print('Python ' + "
    "platform.python_version(), *(f'{n} {v(n)}' for n in "
    "('celery', 'kombu', 'redis', 'fastapi', 'gunicorn', 'asyncpg', 'sqlalchemy')), sep='\\n')\""
)


def describe(scene: Scene, *, form: str) -> dict[str, Any]:
    """Everything that somebody needs who wants the same figures."""
    stack = scene.stack
    return {
        "mode": stack.mode,
        "form": form,
        "settings": {name: stack.setting(name, default) for name, default in SETTINGS.items()},
        "versions": [
            *stack.shell("worker", VERSIONS).split("\n")[:-1],
            "PostgreSQL " + stack.sql("SELECT current_setting('server_version') AS v")[0]["v"],
            _redis_version(scene),
        ],
        "machine": _machine(),
        "commit": _commit(),
    }


def _redis_version(scene: Scene) -> str:
    lines = scene.stack.redis("INFO", "server").splitlines()
    values = dict(line.split(":", 1) for line in lines if ":" in line)
    name = "Valkey" if "valkey_version" in values else "Redis"
    return f"{name} {values.get('valkey_version', values['redis_version'])}"


def _commit() -> str:
    """The last one that touched what is tested or how; unknown without git."""
    command = ("git", "log", "--max-count=1", "--format=%h", "--", *TESTED)
    try:
        told = subprocess.run(command, capture_output=True, check=True, text=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return told.stdout.strip()


def _machine() -> str:
    pages, size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    memory_gb = round(pages * size / 2**30)
    return f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs, {memory_gb} GB"
