"""Claude for a step, answering by a rule, so that calls at once may come in any order."""

from collections.abc import Callable
from decimal import Decimal
from typing import Any

from services.core.claude.protocol import Answer, ClaudeReply, ClaudeRequest
from services.core.usage import Usage


class AnsweringClaude:
    """Gives what the rule says for each request, and keeps the requests."""

    def __init__(self, rule: Callable[[ClaudeRequest], dict[str, Any]]) -> None:
        """Take the rule; what it raises is raised."""
        self._rule = rule
        self.requests: list[ClaudeRequest] = []

    async def ask(self, request: ClaudeRequest, answer_type: type[Answer]) -> ClaudeReply[Answer]:
        """The rule's answer."""
        self.requests.append(request)
        return ClaudeReply(
            answer=answer_type.model_validate(self._rule(request)),
            model="claude-answering",
            usage=Usage(input_tokens=10, output_tokens=5),
            cost_usd=Decimal("0.001"),
            is_simulated=False,
            kept={},
        )
