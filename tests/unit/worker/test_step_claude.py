"""What a step's calls to Claude leave behind."""

import asyncio
from decimal import Decimal

import pytest

from services.core.claude.protocol import ClaudeRequest
from services.core.errors import ClaudeTruncatedError
from services.core.usage import Usage
from services.worker.step_claude import MeteredClaude
from tests.fakes.tiny_pipeline import ScriptedClaude, Text
from tests.fakes.told_texts import ToldTexts, ToldTry

REQUEST = ClaudeRequest(system="", prompt="?")


def a_try() -> ToldTry:
    """Where text goes that no test looks at."""
    return ToldTexts().open("run 1", fence=1, step="ask", attempt=1)


async def test_calls_at_once_are_told_apart() -> None:
    """Each has its number, so that who watches can put their texts together."""
    texts = ToldTexts()
    claude = MeteredClaude(
        ScriptedClaude(), texts.open("run 1", fence=1, step="ask", attempt=1), trace_key="run 1"
    )

    await asyncio.gather(*(claude.ask(REQUEST, Text) for _ in range(3)))

    expected = [(call, piece) for call in range(3) for piece in ("Dear ", "Ada")]
    assert expected == sorted(texts.told[1:], key=lambda told: told[0])


async def test_usage_and_cost_of_all_calls_are_summed() -> None:
    """A step may ask more than once; failed calls that were paid for count as well."""
    failure = ClaudeTruncatedError()
    failure.usage, failure.cost_usd = Usage(output_tokens=7), Decimal("0.5")
    claude = MeteredClaude(ScriptedClaude(), a_try(), trace_key="run 1")
    failing = ScriptedClaude(errors=[failure])
    unlucky = MeteredClaude(failing, a_try(), trace_key="run 1")

    await claude.ask(REQUEST, Text)
    await claude.ask(REQUEST, Text)
    with pytest.raises(ClaudeTruncatedError):
        await unlucky.ask(REQUEST, Text)

    assert Usage(input_tokens=20, output_tokens=10) == claude.usage
    assert Decimal("0.02") == claude.cost_usd
    assert (Usage(output_tokens=7), Decimal("0.5")) == (unlucky.usage, unlucky.cost_usd)
    assert "run 1" == failing.asked[0].trace_key
