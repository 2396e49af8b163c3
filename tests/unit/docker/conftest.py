"""Makes docker/local importable as the Makefile does, and reads the real Compose files."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
sys.path.append(str(ROOT / "docker"))


@pytest.fixture
def variables(tmp_path: Path) -> dict[str, str]:
    """What `.env` gives, with ports other than the containers' own."""
    return {
        "SECRETS_DIR": str(tmp_path / "secrets"),
        "API_PORT": "18000",
        "FLOWER_PORT": "15555",
        "POSTGRES_PUBLISH_PORT": "15432",
        "REDIS_PUBLISH_PORT": "16379",
        "SIMULATOR_PUBLISH_PORT": "18080",
    }
