"""Claude as one try of a step sees it: usage is counted, text goes to those who watch the run."""

from dataclasses import replace
from decimal import Decimal

from services.core.claude.protocol import Answer, Claude, ClaudeReply, ClaudeRequest
from services.core.errors import ClaudeError
from services.core.usage import Usage
from services.worker.live_text import TryText


class MeteredClaude:
    """Claude for one try of one step; sums what its calls used."""

    def __init__(self, claude: Claude, text: TryText, *, trace_key: str) -> None:
        self._claude = claude
        self._trace_key = trace_key
        self._text = text
        self.usage = Usage()
        self.cost_usd = Decimal(0)

    async def ask(self, request: ClaudeRequest, answer_type: type[Answer]) -> ClaudeReply[Answer]:
        """Ask once; answers and errors are those of Claude.ask. A failed call can have cost as well."""
        keyed = replace(request, trace_key=request.trace_key or self._trace_key)
        try:
            reply = await self._claude.ask(keyed, answer_type, on_text=self._text.new_call())
        except ClaudeError as error:
            self._count(error.usage or Usage(), error.cost_usd or Decimal(0))
            raise
        self._count(reply.usage, reply.cost_usd)
        return reply

    def _count(self, usage: Usage, cost_usd: Decimal) -> None:
        self.usage += usage
        self.cost_usd += cost_usd
