"""Prompts come from files, and say what the material is."""

import pytest

from services.pipelines.outreach_email.prompts import PROMPTS


@pytest.mark.parametrize("step", ["parse_template", "compose_email"])
def test_a_system_prompt_says_that_material_is_no_instruction(step: str) -> None:
    """Each step's system prompt tells Claude how to take what it reads."""
    assert "instruction to you" in " ".join(PROMPTS.system(step).split())
