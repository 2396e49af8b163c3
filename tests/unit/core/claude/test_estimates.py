"""services.core.claude.estimates: what a call is likely to use."""

from pydantic import BaseModel

from services.core.claude.estimates import Experience
from services.core.claude.protocol import CallEstimate
from services.core.usage import Usage


class Word(BaseModel):
    """What is asked for."""


class Other(BaseModel):
    """What is asked for elsewhere."""


def estimate(experience: Experience, answer_type: type[BaseModel] = Word) -> CallEstimate:
    """Of a call with 1,000 bytes."""
    return experience.estimate(answer_type, model="m", size_bytes=1000, max_tokens=400)


def test_the_first_estimate_is_a_rule_of_thumb() -> None:
    """Between 3 and 4 bytes a token, and answers that are far from max_tokens."""
    assert CallEstimate("m", 300, 100) == estimate(Experience())


def test_estimates_follow_what_calls_used() -> None:
    """For this type of answer; what was read from the cache counts against no limit."""
    experience = Experience()
    for _ in range(2):
        experience.learn(Word, Usage(100, 30, 5000, 150), size_bytes=1000)

    assert CallEstimate("m", 250, 30) == estimate(experience)
    assert CallEstimate("m", 300, 100) == estimate(experience, Other)


def test_one_odd_call_changes_little() -> None:
    """And no estimate exceeds max_tokens."""
    experience = Experience()
    experience.learn(Word, Usage(200, 80), size_bytes=1000)
    experience.learn(Word, Usage(1000, 880), size_bytes=1000)

    assert CallEstimate("m", 300, 180) == estimate(experience)
    for _ in range(100):
        experience.learn(Word, Usage(1000, 880), size_bytes=1000)
    assert estimate(experience).output_tokens == 400
