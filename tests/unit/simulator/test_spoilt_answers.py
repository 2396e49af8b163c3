"""services.simulator.spoilt_answers: paid for, and of no use or not at their end."""

import pytest

from services.simulator.answer import answer_request
from services.simulator.faults import Fault
from services.simulator.schemas import MessagesRequest
from services.simulator.spoilt_answers import failing_answer

REQUEST = MessagesRequest.model_validate(
    {
        "model": "claude-sonnet-5-5",
        "max_tokens": 100,
        "messages": [{"role": "user", "content": "The harbour freezes in January."}],
    }
)


@pytest.mark.parametrize(
    ("fault", "stop_reason"),
    [
        (None, "end_turn"),
        (Fault.GARBAGE, "end_turn"),
        (Fault.REFUSAL, "refusal"),
        (Fault.MAX_TOKENS, "max_tokens"),
        (Fault.CONTEXT_WINDOW, "model_context_window_exceeded"),
        (Fault.PAUSE_TURN, "pause_turn"),
    ],
)
def test_a_spoilt_answer_is_still_charged(fault, stop_reason):
    """Faults of this kind cost tokens."""
    answer = failing_answer(answer_request(REQUEST), fault)

    assert stop_reason == answer.stop_reason
    assert answer.input_tokens > 0
    assert answer.output_tokens > 0


@pytest.mark.parametrize("fault", [Fault.MAX_TOKENS, Fault.CONTEXT_WINDOW, Fault.PAUSE_TURN])
def test_an_answer_that_is_cut_off_is_the_beginning_of_the_whole(fault):
    """And knows what the whole is, so that it can be continued."""
    whole = answer_request(REQUEST)

    answer = failing_answer(whole, fault)

    assert whole.text.startswith(answer.text)
    assert 0 < len(answer.text) < len(whole.text)
    assert whole.text == answer.whole
