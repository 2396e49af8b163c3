"""Claude for a step, answering as the simulator would, without its server."""

from decimal import Decimal

import anthropic

from services.core.claude.protocol import Answer, ClaudeReply, ClaudeRequest
from services.core.usage import Usage
from services.simulator.answer import answer_request
from services.simulator.schemas import MessagesRequest

MODEL = "claude-sonnet-5-5"


class SimulatedClaude:
    """Asks the simulator's rules."""

    async def ask(self, request: ClaudeRequest, answer_type: type[Answer]) -> ClaudeReply[Answer]:
        """The simulator's answer to the request that the SDK would send."""
        schema = anthropic.transform_schema(answer_type)
        sent = {
            "model": MODEL,
            "max_tokens": request.max_tokens,
            "system": request.system,
            "messages": [{"role": "user", "content": request.prompt}],
            "output_config": {"format": {"type": "json_schema", "schema": schema}},
        }
        answer = answer_request(MessagesRequest.model_validate(sent))
        return ClaudeReply(
            answer=answer_type.model_validate_json(answer.text),
            model=MODEL,
            usage=Usage(answer.input_tokens, answer.output_tokens),
            cost_usd=Decimal("0.001"),
            is_simulated=True,
        )
