"""The turns of one answer: when Claude is asked to go on, and what they can cost together."""

from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal

from anthropic.types import Message

from services.core.claude.cost import PriceList
from services.core.claude.messages import Params, continued_params, resumed_params, size_bytes
from services.core.claude.outcomes import Follow, outcome_of_stop
from services.core.claude.protocol import ClaudeRequest, Truncation

MAX_CONTINUATIONS = 3
"""After these an answer that still has no end is not worth its price."""
UNSEEN_TOKENS = 1000
"""Of what Claude reads and we do not send: the frame of a message, and the description of the answer's format,
which the API puts before the system prompt. That of its tools has up to 530 tokens."""
COUNTED_SHARE = Decimal("1.02")
COUNTED_TOKENS = 200
"""How far the input may exceed what count_tokens() said, which Anthropic calls an estimate that can be off by a
small amount: 2 % and 200 tokens."""
REREAD_FACTOR = 2
"""A text that Claude wrote with N tokens is read again as no more than 2 N; as N, as a rule."""
TURN_TOKENS = 300
"""Of the frame and the words with which an answer is continued."""


class CallPrice:
    """What the turns of one call can cost, and whether one more fits into what is reserved."""

    def __init__(self, prices: PriceList, request: ClaudeRequest, params: Params) -> None:
        self._prices = prices
        self._params = params
        self._model: str = params["model"]
        self._max_turns = 1
        if request.on_truncation is Truncation.CONTINUE:
            self._max_turns += MAX_CONTINUATIONS

    def worst_usd(self, *, input_tokens: int | None = None, is_batch: bool = False) -> Decimal:
        """What the call costs at most; see Claude.worst_case_usd. A batch asks only once."""
        first = self._most_input_tokens(input_tokens)
        written = self._params["max_tokens"]
        return sum(
            (
                self._prices.most_usd(
                    self._model,
                    input_tokens=first + _most_added_tokens(turn * written, turn),
                    output_tokens=written,
                    is_batch=is_batch,
                )
                for turn in range(1 if is_batch else self._max_turns)
            ),
            Decimal(0),
        )

    def fits(self, messages: Sequence[Message], following: Params, ceiling_usd: Decimal) -> bool:
        """Whether one more turn keeps the call within what is reserved for it.

        Args:
            messages: The turns so far, whole.
            following: The next turn's parameters.
            ceiling_usd: What is reserved.
        """
        first = self._prices.spend_of(messages[0], asked_model=self._model)
        spent = self._prices.total_of(messages, asked_model=self._model)
        most_usd = self._prices.most_usd(
            self._model,
            input_tokens=first.usage.all_input_tokens
            + _most_added_tokens(spent.usage.output_tokens, len(messages)),
            output_tokens=following["max_tokens"],
        )
        return spent.cost_usd + most_usd <= ceiling_usd

    def _most_input_tokens(self, counted: int | None) -> int:
        if counted is None:
            return size_bytes(self._params) + UNSEEN_TOKENS
        return int(counted * COUNTED_SHARE) + COUNTED_TOKENS


def following_turn(
    request: ClaudeRequest, asked: Params, sent: Params, messages: Sequence[Message]
) -> Params | None:
    """What to ask so that Claude goes on with its answer; None where it is whole or not to go on.

    Args:
        request: The question.
        asked: Its parameters.
        sent: Those of the last turn.
        messages: The turns so far, whole.
    """
    last = messages[-1]
    if len(messages) > MAX_CONTINUATIONS:
        return None
    follow = outcome_of_stop(last.stop_reason).follow
    left = sent["max_tokens"] - last.usage.output_tokens
    if follow is Follow.RESUME and last.content and left > 0:
        return resumed_params(sent, last) | {"max_tokens": left}
    if _is_to_continue(request, messages):
        return continued_params(asked, text_of(messages))
    return None


def following_request(request: ClaudeRequest, messages: Sequence[Message]) -> ClaudeRequest | None:
    """The question that gets the rest of an answer as a call of its own; None as in following_turn().

    Args:
        request: The first question.
        messages: The answers so far, whole.
    """
    if len(messages) > MAX_CONTINUATIONS or not _is_to_continue(request, messages):
        return None
    return replace(request, written=text_of(messages))


def _is_to_continue(request: ClaudeRequest, messages: Sequence[Message]) -> bool:
    """Whether the last answer was cut off, and may be: one without text would only be cut off again."""
    follow = outcome_of_stop(messages[-1].stop_reason).follow
    may_continue = request.on_truncation is Truncation.CONTINUE
    return follow is Follow.CONTINUE and may_continue and bool(text_of(messages).strip())


def text_of(messages: Sequence[Message]) -> str:
    """The text of an answer that came in one or more turns."""
    return "".join(
        block.text for message in messages for block in message.content if block.type == "text"
    )


def _most_added_tokens(written: int, turns: int) -> int:
    """What earlier turns add to a turn's input."""
    return REREAD_FACTOR * written + TURN_TOKENS * turns
