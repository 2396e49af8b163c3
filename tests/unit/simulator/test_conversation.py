"""services.simulator.conversation: pieces of an answer make up the whole."""

from typing import Any

import pytest

from services.simulator.answer import answer_request
from services.simulator.conversation import UnfinishedAnswers
from services.simulator.schemas import MessagesRequest

SCHEMA = {
    "type": "object",
    "properties": {"summary": {"type": "string"}, "note": {"type": "string"}},
    "required": ["summary", "note"],
    "additionalProperties": False,
}
QUESTION = {
    "role": "user",
    "content": "<note>The harbour freezes in January.\nThe lighthouse is kept by two sisters.</note>",
}
FORMAT = {"output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}}
GO_ON = {"role": "user", "content": "Please continue exactly where you stopped."}


def request(turns: list[dict[str, Any]], **changes: Any) -> MessagesRequest:
    """A request with these turns."""
    return MessagesRequest.model_validate(
        {"model": "claude-sonnet-5-5", "max_tokens": 1000, "messages": turns} | changes
    )


@pytest.mark.parametrize("asks", [True, False])
@pytest.mark.parametrize("strip", [True, False])
@pytest.mark.parametrize("max_tokens", [1, 2, 7, 20])
@pytest.mark.parametrize("shape", [{}, FORMAT])
def test_pieces_make_up_the_whole(asks, strip, max_tokens, shape):
    """By a turn that asks to go on, or by giving the unfinished answer back as it is."""
    whole = answer_request(request([QUESTION], **shape))
    text, stop_reason = "", "max_tokens"
    for _ in range(200):
        if stop_reason != "max_tokens":
            break
        so_far = [{"role": "assistant", "content": text.strip() if strip else text}] if text else []
        turns = [QUESTION, *so_far, *([GO_ON] if asks and so_far else [])]
        piece = answer_request(request(turns, max_tokens=max_tokens, **shape))
        text, stop_reason = text + piece.text, piece.stop_reason

    assert whole.text == text
    assert stop_reason == "end_turn"


def test_each_piece_may_be_a_turn_of_its_own():
    """Question, piece, go on, piece, go on."""
    whole = answer_request(request([QUESTION]))
    turns = [QUESTION]
    pieces = []
    for _ in range(3):
        pieces.append(answer_request(request(turns, max_tokens=9)).text)
        turns += [{"role": "assistant", "content": pieces[-1]}, GO_ON]

    assert whole.text.startswith("".join(pieces))
    assert len(set(pieces)) == 3


def test_the_schema_need_not_be_repeated():
    """Structured output cannot be continued with it: what was cut off is remembered."""
    unfinished = UnfinishedAnswers()
    first = request([QUESTION], max_tokens=8, **FORMAT)
    cut = answer_request(first, unfinished=unfinished)
    unfinished.note(first.messages, cut.whole)
    turns = [QUESTION, {"role": "assistant", "content": cut.text}, GO_ON]

    rest = answer_request(request(turns), unfinished=unfinished)

    assert answer_request(request([QUESTION], **FORMAT)).text == cut.text + rest.text
    assert rest.stop_reason == "end_turn"


def test_another_conversation_is_answered_as_before():
    """A question after an answer is a question."""
    turns = [QUESTION, {"role": "assistant", "content": "It does."}]
    asked = answer_request(request([*turns, {"role": "user", "content": "And in May?"}]))
    unknown = answer_request(request([*turns, GO_ON]))

    assert asked.text.startswith("This is a simulated answer")
    assert unknown.text.startswith("This is a simulated answer")


def test_not_all_is_remembered():
    """The oldest are forgotten."""
    unfinished = UnfinishedAnswers()
    for number in range(1001):
        turn = request([{"role": "user", "content": f"Question {number}"}])
        unfinished.note(turn.messages, f"Answer {number}")

    assert unfinished.whole("Question 0") is None
    assert unfinished.whole("Question 1") == "Answer 1"
    assert unfinished.whole("Question 1000") == "Answer 1000"
