"""Claude for a step, answering as the simulator would, without its server."""

from decimal import Decimal

from services.core.claude.messages import message_params
from services.core.claude.protocol import Answer, ClaudeReply, ClaudeRequest
from services.core.usage import Usage
from services.simulator.answer import answer_request
from services.simulator.schemas import MessagesRequest

MODEL = "claude-sonnet-5-5"


class SimulatedClaude:
    """Asks the simulator's rules."""

    async def ask(self, request: ClaudeRequest, answer_type: type[Answer]) -> ClaudeReply[Answer]:
        """The simulator's answer to the request that the SDK would send."""
        sent = message_params(request, answer_type, MODEL)
        answer = answer_request(MessagesRequest.model_validate(sent))
        return ClaudeReply(
            answer=answer_type.model_validate_json(answer.text),
            model=MODEL,
            usage=Usage(answer.input_tokens, answer.output_tokens),
            cost_usd=Decimal("0.001"),
            is_simulated=True,
            kept={},
        )
