"""Claude for a step, answering what the test says."""

from decimal import Decimal
from typing import Any

from services.core.claude.protocol import Answer, ClaudeReply, ClaudeRequest
from services.core.usage import Usage


class ScriptedClaude:
    """Gives the scripted answers in turn and keeps the requests."""

    def __init__(self, *answers: dict[str, Any] | Exception) -> None:
        """Take what to answer; an exception is raised."""
        self._answers = list(answers)
        self.requests: list[ClaudeRequest] = []

    async def ask(self, request: ClaudeRequest, answer_type: type[Answer]) -> ClaudeReply[Answer]:
        """The next answer; an unexpected question fails the test."""
        self.requests.append(request)
        answer = self._answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return ClaudeReply(
            answer=answer_type.model_validate(answer),
            model="claude-scripted",
            usage=Usage(input_tokens=10, output_tokens=5),
            cost_usd=Decimal("0.001"),
            is_simulated=False,
            kept={},
        )
