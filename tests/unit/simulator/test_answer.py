"""services.simulator.answer: the same for the same request, and no longer than asked."""

import json
from typing import Any

from services.simulator.answer import answer_request
from services.simulator.prefixes import count_input_tokens
from services.simulator.schemas import MessagesRequest
from services.simulator.tokens import count_tokens, cut_to_tokens

PROMPT = "The harbour freezes in January. The lighthouse is kept by two sisters."


def request(**changes: Any) -> MessagesRequest:
    """A request for plain text."""
    body = {
        "model": "claude-sonnet-5-5",
        "max_tokens": 100,
        "messages": [{"role": "user", "content": PROMPT}],
    }
    return MessagesRequest.model_validate(body | changes)


def test_a_plain_answer_says_that_it_is_simulated_and_quotes_the_prompt():
    """Nobody can take it for Claude's."""
    answer = answer_request(request())

    assert answer.text == f"This is a simulated answer, not Claude's. The prompt says: {PROMPT}"
    assert answer.stop_reason == "end_turn"


def test_the_same_request_has_the_same_answer_and_id():
    """And another request has another id."""
    assert answer_request(request()) == answer_request(request())
    assert answer_request(request()).id != answer_request(request(max_tokens=99)).id


def test_max_tokens_cuts_the_answer():
    """No answer is longer than asked; it says why it stops."""
    answer = answer_request(request(max_tokens=5))

    assert answer.stop_reason == "max_tokens"
    assert answer.output_tokens == 5
    assert count_tokens(answer.text) == 5


def test_a_stop_sequence_ends_the_answer():
    """The first one that the text reaches."""
    answer = answer_request(request(stop_sequences=["lighthouse", "harbour", "nowhere"]))

    assert answer.text.endswith("The ")
    assert (answer.stop_reason, answer.stop_sequence) == ("stop_sequence", "harbour")


def test_content_blocks_and_system_count_as_text():
    """A list of blocks is its text."""
    blocks = [{"type": "text", "text": PROMPT}, {"type": "image", "source": {}}]
    in_blocks = request(messages=[{"role": "user", "content": blocks}])
    with_system = request(system=[{"type": "text", "text": "Be brief."}])

    assert answer_request(in_blocks).text == answer_request(request()).text
    assert count_input_tokens(in_blocks) == count_input_tokens(request())
    assert count_input_tokens(with_system) > count_input_tokens(request())


def test_structured_output_is_json():
    """And its schema costs input tokens, as with Claude."""
    schema = {"type": "object", "properties": {"summary": {"type": "string"}}}
    asked = request(output_config={"format": {"type": "json_schema", "schema": schema}})

    assert json.loads(answer_request(asked).text) == {"summary": "The harbour freezes in January."}
    assert count_input_tokens(asked) > count_input_tokens(request())


def test_tokens_are_about_four_characters_of_prose():
    """The rule of thumb that the counting is modelled on."""
    assert 3 < len(PROMPT) / count_tokens(PROMPT) < 6


def test_cut_to_tokens_keeps_the_beginning():
    """A shorter text is left as it is."""
    assert cut_to_tokens("one two three", 2) == "one two "
    assert cut_to_tokens("one two", 9) == "one two"
