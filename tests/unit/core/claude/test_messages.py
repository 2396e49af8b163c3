"""services.core.claude.messages: what goes to Claude, what of it is cached, and how large it is."""

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from services.core.claude.messages import (
    count_params,
    message_params,
    question_hash,
    size_bytes,
)
from services.core.claude.protocol import ClaudeRequest, Truncation

MODEL = "claude-sonnet-5-5"
CACHED = {"type": "ephemeral"}
REQUEST = ClaudeRequest(
    system="Be brief.", shared="<rules/>", prompt="Yes or no?", max_tokens=50, trace_key="run-1"
)


class Word(BaseModel):
    """What is asked for."""

    word: str


class Number(BaseModel):
    """Something else."""

    number: int = Field(ge=1)


def test_what_many_calls_share_comes_first_and_is_marked() -> None:
    """The system prompt, then what the calls of a run share, then what only this one asks."""
    params = message_params(REQUEST, Word, MODEL)

    assert [{"type": "text", "text": "Be brief.", "cache_control": CACHED}] == params["system"]
    assert [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "<rules/>", "cache_control": CACHED},
                {"type": "text", "text": "Yes or no?"},
            ],
        }
    ] == params["messages"]


def test_calls_that_share_have_the_same_beginning() -> None:
    """Byte for byte, or Claude's cache would not know it again."""
    one = message_params(REQUEST, Word, MODEL)
    other = message_params(replace(REQUEST, prompt="Why?", trace_key="run-2"), Word, MODEL)

    assert one["system"] == other["system"]
    assert one["messages"][0]["content"][0] == other["messages"][0]["content"][0]


def test_counting_takes_the_same_question() -> None:
    """Without what the endpoint does not know."""
    params = message_params(REQUEST, Word, MODEL)

    assert {"model", "messages", "output_config", "system"} == set(count_params(params))


@pytest.mark.parametrize(
    "change",
    [
        {"system": "Be long."},
        {"shared": ""},
        {"prompt": "No or yes?"},
        {"max_tokens": 51},
    ],
)
def test_another_question_has_another_hash(change) -> None:
    """Whatever Claude is asked with is in it."""
    asked = question_hash(message_params(REQUEST, Word, MODEL))

    assert asked != question_hash(message_params(replace(REQUEST, **change), Word, MODEL))
    assert asked != question_hash(message_params(REQUEST, Number, MODEL))
    assert asked != question_hash(message_params(REQUEST, Word, "claude-haiku-5-5"))
    assert len(asked) == 32


def test_the_same_question_has_the_same_hash() -> None:
    """Whoever asks it, and whatever is to become of its answer."""
    other = replace(REQUEST, trace_key="run-2", on_truncation=Truncation.CONTINUE)
    params = message_params(REQUEST, Word, MODEL)
    reordered = json.loads(json.dumps(params, sort_keys=True))

    assert question_hash(params) == question_hash(message_params(other, Word, MODEL))
    assert question_hash(params) == question_hash(reordered)


def test_a_sign_that_stands_for_many_is_counted_as_many() -> None:
    """One that was published wrote it out before it counted."""
    plain, sign = (
        size_bytes(message_params(replace(REQUEST, prompt=prompt), Word, MODEL))
        for prompt in ("", "\ufdfa")
    )

    assert sign - plain == len("صلى الله عليه وسلم".encode())


@settings(deadline=None)
@given(st.text(), st.text(), st.text())
def test_the_size_is_that_of_all_texts_at_least(system: str, shared: str, prompt: str) -> None:
    """Whatever stands in them, surrogates without a partner included."""
    request = ClaudeRequest(system=system, shared=shared, prompt=prompt)

    size = size_bytes(message_params(request, Word, MODEL))

    assert size >= sum(len(text.encode(errors="replace")) for text in (system, shared, prompt))
