"""A text sender that keeps what those who watch would be told."""

from typing import Any

from services.core.claude.protocol import OnText


class ToldTry:
    """TryText without Redis."""

    def __init__(self, told: list[Any]) -> None:
        self._told = told
        self._calls = 0

    def new_call(self) -> OnText:
        """Keep the text of one more call."""
        call, self._calls = self._calls, self._calls + 1

        async def take(piece: str) -> None:
            self._told.append((call, piece))

        return take

    async def flush(self) -> None:
        """Keep that it was asked for."""
        self._told.append("flush")

    def close(self) -> None:
        """Keep that it ended."""
        self._told.append("close")


class ToldTexts:
    """TextSender without Redis."""

    def __init__(self) -> None:
        self.told: list[Any] = []
        """What was told, in order: (call, piece), "flush", "close"; and which try was opened."""

    def open(self, run_id: object, *, fence: int, step: str, attempt: int) -> ToldTry:
        """Keep which try it is."""
        self.told.append((fence, step, attempt))
        return ToldTry(self.told)
