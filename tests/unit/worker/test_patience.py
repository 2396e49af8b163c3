"""Waiting for the record."""

import pytest

from services.core.errors import LeaseLostError, StoreUnavailableError
from services.worker import patience
from services.worker.patience import until_store_answers


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "FIRST_PAUSE_S", 0.001)
    monkeypatch.setattr(patience, "LONGEST_PAUSE_S", 0.002)


async def test_a_write_is_repeated_until_it_is_taken() -> None:
    """However often PostgreSQL is away."""
    answers = iter([StoreUnavailableError()] * 20 + [7])

    async def write() -> int:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert 7 == await until_store_answers(write)


async def test_a_refusal_is_final() -> None:
    """The fence has spoken."""

    async def write() -> int:
        raise LeaseLostError

    with pytest.raises(LeaseLostError):
        await until_store_answers(write)
