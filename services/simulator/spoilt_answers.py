"""Answers that are whole, paid for, and of no use or not at their end."""

from dataclasses import replace

from services.simulator.answer import SimulatedAnswer
from services.simulator.faults import Fault
from services.simulator.tokens import count_tokens

STOP_REASONS = {
    Fault.MAX_TOKENS: "max_tokens",
    Fault.CONTEXT_WINDOW: "model_context_window_exceeded",
    Fault.PAUSE_TURN: "pause_turn",
}
"""Faults that end an answer in the middle, and what it says then."""


def failing_answer(answer: SimulatedAnswer, fault: Fault | None) -> SimulatedAnswer:
    """The answer as a fault spoils it."""
    half = answer.text[: len(answer.text) // 2]
    if fault is Fault.GARBAGE:
        return replace(answer, text="<<garbage>> " + half)
    if fault is Fault.REFUSAL:
        details = {"type": "refusal", "category": None, "explanation": None}
        return replace(
            answer, text="", stop_reason="refusal", output_tokens=1, stop_details=details
        )
    if fault in STOP_REASONS:
        return replace(
            answer,
            text=half,
            stop_reason=STOP_REASONS[fault],
            output_tokens=max(1, count_tokens(half)),
        )
    return answer
