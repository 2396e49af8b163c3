"""services.core.claude.arrival: a streamed answer, put together."""

import httpx2
import pytest
from anthropic import APIStatusError

from services.core.claude.arrival import Arrival, EventReader
from tests.unit.core.claude.messages_api import Event, message_events, sse

RESPONSE = httpx2.Response(200, request=httpx2.Request("POST", "https://api.anthropic.com"))
STREAM = sse(*message_events('{"word": ', '"Gruß"}'))


def arrived(*events: Event) -> Arrival:
    """What has arrived with these events."""
    arrival = Arrival()
    list(arrival.take(sse(*events), RESPONSE))
    return arrival


@pytest.mark.parametrize("size", [1, 2, 7, 100, 10_000])
@pytest.mark.parametrize("line_end", [b"\n", b"\r\n"])
def test_portions_of_any_size_give_the_same_answer(size: int, line_end: bytes) -> None:
    """The network cuts where it likes, also within a letter."""
    stream = STREAM.replace(b"\n", line_end)
    arrival, pieces = Arrival(), []

    for start in range(0, len(stream), size):
        pieces += arrival.take(stream[start : start + size], RESPONSE)

    assert pieces == ['{"word": ', '"Gruß"}']
    assert arrival.is_complete
    assert arrival.message is not None
    assert arrival.message.content[0].to_dict() == {"type": "text", "text": '{"word": "Gruß"}'}


def test_events_are_read_as_the_standard_has_them() -> None:
    """Comments and unknown fields are skipped, lines of data joined; without a name nothing is told."""
    stream = b":\n\n: hello\nevent: a\nid: 1\ndata: 1\ndata:2\n\ndata: 3\n\nevent:b\n\nevent: c\ndata: 4\n"

    assert list(EventReader().read(stream)) == [("a", b"1\n2"), ("b", b"")]


def test_usage_is_what_the_end_says_and_else_what_the_beginning_said() -> None:
    """Both count from the beginning; what the end leaves out, or leaves empty, stays."""
    events = message_events("hi", cache_read_input_tokens=7)
    events[-2]["usage"] = {"input_tokens": 101, "output_tokens": 5, "cache_read_input_tokens": None}

    message = arrived(*events).message

    assert message is not None
    usage = message.usage
    assert (usage.input_tokens, usage.output_tokens, usage.cache_read_input_tokens) == (101, 5, 7)


def test_what_claude_thought_can_be_sent_back() -> None:
    """A paused answer is resumed with all of its blocks, as they came."""
    begun, text, *rest = message_events("hi")
    block = {"type": "thinking", "thinking": "", "signature": ""}
    deltas = (
        {"type": "thinking_delta", "thinking": "Hm"},
        {"type": "thinking_delta", "thinking": "m."},
        {"type": "signature_delta", "signature": "abc"},
    )
    thought = [{"type": "content_block_start", "index": 0, "content_block": block}] + [
        {"type": "content_block_delta", "index": 0, "delta": delta} for delta in deltas
    ]
    answered = [event | {"index": 1} if "index" in event else event for event in (text, *rest)]

    message = arrived(begun, *thought, *answered).message

    assert message is not None
    assert [block.to_dict() for block in message.content] == [
        {"type": "thinking", "thinking": "Hmm.", "signature": "abc"},
        {"type": "text", "text": "hi"},
    ]


def test_an_answer_of_tomorrow_is_an_answer() -> None:
    """Kinds of blocks and pieces and stop reasons that the SDK does not know yet are not worth an error."""
    begun, text, piece, *rest = message_events("hi", stop_reason="novelty")
    novel = piece | {"delta": {"type": "novelty_delta", "novelty": 1}}
    block = {"type": "content_block_start", "index": 1, "content_block": {"type": "novelty"}}

    message = arrived(begun, text, novel, piece, block, *rest).message

    assert message is not None
    assert message.stop_reason == "novelty"
    assert [block.type for block in message.content] == ["text", "novelty"]


def test_what_has_arrived_tells_its_usage_before_the_end() -> None:
    """An answer that is cut off has a price, too."""
    arrival = arrived(*message_events("hi")[:3])

    assert not arrival.is_complete
    assert arrival.message is not None
    assert arrival.message.usage.input_tokens == 100
    assert Arrival().message is None


@pytest.mark.parametrize("data", [b'{"error": {"type": "overloaded_error"}}', b"<html>", b"\xff"])
def test_an_error_in_mid_answer_is_that_of_the_sdk(data: bytes) -> None:
    """With the status of the answer's head, and whatever of it can be read."""
    with pytest.raises(APIStatusError) as caught:
        list(Arrival().take(b"event: error\ndata: " + data + b"\n\n", RESPONSE))

    assert caught.value.status_code == 200
    assert (caught.value.type == "overloaded_error") is (b"overloaded" in data)


@pytest.mark.parametrize("data", [b"[]", b"1", b"{}", b"{", b'{"type": "message_start"}'])
def test_what_is_no_event_of_claude_is_an_error(data: bytes) -> None:
    """One that counts as an answer which cannot be read."""
    with pytest.raises((ValueError, LookupError, TypeError)):
        list(Arrival().take(b"event: x\ndata: " + data + b"\n\n", RESPONSE))
