"""The age of the heartbeat file."""

import math
import os
import time
from pathlib import Path

import pytest

from services.worker.liveness import MAX_AGE_S, age_s, main


def test_a_missing_file_is_infinitely_old(tmp_path: Path) -> None:
    """A worker that has consumed nothing yet is not healthy."""
    assert math.inf == age_s(tmp_path / "none")


@pytest.mark.parametrize(("age", "expected"), [(0, 0), (MAX_AGE_S - 5, 0), (MAX_AGE_S + 5, 1)])
def test_the_status_turns_with_the_age(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, age: float, expected: int
) -> None:
    """Healthy up to MAX_AGE_S, unhealthy from then on."""
    file = tmp_path / "heartbeat"
    file.touch()
    touched_at = time.time() - age  # noqa: TID251 - file times are wall clock times
    os.utime(file, (touched_at, touched_at))
    monkeypatch.setenv("CELERY_HEARTBEAT_FILE", str(file))

    assert expected == main()


def test_no_file_at_all_is_not_health(monkeypatch: pytest.MonkeyPatch) -> None:
    """A health check that checks nothing must not say that all is well."""
    monkeypatch.delenv("CELERY_HEARTBEAT_FILE", raising=False)

    assert 1 == main()
