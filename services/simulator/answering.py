"""Answering with all that the simulator remembers: its cache, and answers that were cut off."""

from services.simulator.answer import SimulatedAnswer, answer_request
from services.simulator.faults import Fault
from services.simulator.prompt_cache import CacheUse
from services.simulator.schemas import MessagesRequest
from services.simulator.spoilt_answers import failing_answer
from services.simulator.state import State

CUT_OFF = {"max_tokens", "pause_turn", "model_context_window_exceeded"}


def answer_message(
    message: MessagesRequest, use: CacheUse, fault: Fault | None, state: State
) -> SimulatedAnswer:
    """The answer that is sent, live or in a batch.

    Args:
        message: The request.
        use: What the cache does for it.
        fault: What may spoil the answer.
        state: What the simulator remembers.

    Raises:
        InvalidRequestError: Its schema uses what is not supported, or nothing fits it.
    """
    answer = answer_request(message, cache=use, unfinished=state.unfinished)
    answer = failing_answer(answer, fault)
    if answer.stop_reason in CUT_OFF:
        state.unfinished.note(message.messages, answer.whole)
    return answer
