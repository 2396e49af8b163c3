"""What the SDK sees of the simulator's limits, cache, faults and accounts."""

import asyncio
import json
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import anthropic
import pytest

from services.core.clock import utc_now

MODEL = "claude-sonnet-5-5"
ASKED: dict[str, Any] = {
    "model": MODEL,
    "max_tokens": 1000,
    "messages": [{"role": "user", "content": "The harbour freezes in January."}],
}
LONG = "The lighthouse is kept by two sisters. " * 200
SUMMARY = {
    "format": {
        "type": "json_schema",
        "schema": {"type": "object", "properties": {"summary": {"type": "string"}}},
    }
}
STAMP = re.compile(r"\[(\d+\.\d{6})\] ")


async def streamed(sdk: anthropic.AsyncAnthropic, **changes: Any) -> anthropic.types.Message:
    """The whole message of a streamed call."""
    async with sdk.messages.stream(**(ASKED | changes)) as stream:
        return await stream.get_final_message()


async def test_limits_are_on_every_answer(sdk, admin) -> None:
    """JSON, stream, error and refusal alike; a refusal says when there is room."""
    admin.put("limits", requests_per_min=3, input_tokens_per_min=6000, output_tokens_per_min=9000)
    admin.put("faults", fault="overloaded", match="fail")

    answer = await sdk.messages.with_raw_response.create(**ASKED)
    async with sdk.messages.stream(**ASKED) as stream:
        await stream.until_done()
    with pytest.raises(anthropic.InternalServerError) as overloaded:
        await sdk.messages.create(**ASKED | {"messages": [{"role": "user", "content": "fail"}]})
    with pytest.raises(anthropic.RateLimitError) as refused:
        await sdk.messages.create(**ASKED)

    seen = [
        answer.headers,
        stream.response.headers,
        overloaded.value.response.headers,
        refused.value.response.headers,
    ]
    prefix = "anthropic-ratelimit-requests"
    assert ["2", "1", "0", "0"] == [headers[f"{prefix}-remaining"] for headers in seen]
    assert {"3"} == {headers[f"{prefix}-limit"] for headers in seen}
    assert all("anthropic-ratelimit-output-tokens-reset" in headers for headers in seen)
    assert all("anthropic-ratelimit-input-tokens-remaining" in headers for headers in seen)
    assert 15 <= int(seen[3]["retry-after"]) <= 20
    assert refused.value.type == "rate_limit_error"
    ledger = admin.ledger()
    assert (4, 1, 2) == (ledger["requests"], ledger["answered_429"], ledger["answered"])


async def test_after_the_time_that_is_said_there_is_room(sdk, admin) -> None:
    """Who waits for retry-after is let in."""
    admin.put("limits", requests_per_min=60, burst_s=1)
    await sdk.messages.create(**ASKED)
    with pytest.raises(anthropic.RateLimitError) as refused:
        await sdk.messages.create(**ASKED)

    await asyncio.sleep(int(refused.value.response.headers["retry-after"]))

    await sdk.messages.create(**ASKED)


async def test_output_tokens_are_limited_as_they_are_produced(sdk, admin) -> None:
    """max_tokens does not matter; what an answer has is gone."""
    admin.put("limits", output_tokens_per_min=9000)

    message = await streamed(sdk)

    left = admin.get("limits")["models"][MODEL]["output_tokens"]["remaining"]
    assert 0 <= left - (9000 - message.usage.output_tokens) < 100


async def test_cached_prefixes_are_reported_and_not_limited(sdk, admin) -> None:
    """Writing costs input tokens, reading does not; a stream reports them like any answer."""
    admin.put("limits", input_tokens_per_min=5000)
    mark = {"cache_control": {"type": "ephemeral"}}
    system = [{"type": "text", "text": LONG} | mark]

    first = await sdk.messages.create(**ASKED, system=system)
    left = admin.get("limits")["models"][MODEL]["input_tokens"]["remaining"]
    second = await streamed(sdk, system=system)
    still_left = admin.get("limits")["models"][MODEL]["input_tokens"]["remaining"]

    written = first.usage.cache_creation_input_tokens
    assert written is not None
    assert written > 1024
    assert first.usage.cache_creation is not None
    assert first.usage.cache_creation.ephemeral_5m_input_tokens == written
    assert second.usage.cache_read_input_tokens == written
    assert second.usage.cache_creation_input_tokens == 0
    assert second.usage.input_tokens == first.usage.input_tokens
    assert abs(5000 - written - first.usage.input_tokens - left) < 200
    assert left - still_left <= second.usage.input_tokens
    assert [1] == [entry["reads"] for entry in admin.get("cache")]


async def test_accounts_agree_with_what_clients_were_told(sdk, admin) -> None:
    """Run by run, to the token, errors and broken streams included."""
    mark = {"cache_control": {"type": "ephemeral", "ttl": "1h"}}
    system = [{"type": "text", "text": LONG} | mark]
    run = {"metadata": {"user_id": "run-1"}}
    told = [
        await sdk.messages.create(**ASKED, **run, system=system),
        await streamed(sdk, **run, system=system),
        await streamed(sdk, **run, max_tokens=3),
    ]
    await streamed(sdk, metadata={"user_id": "run-2"})
    for fault in ("overloaded", "midstream_overloaded", "refusal"):
        admin.put("faults", fault=fault, count=1)
    with pytest.raises(anthropic.APIStatusError):
        await streamed(sdk, **run)
    with pytest.raises(anthropic.APIStatusError):
        await streamed(sdk, **run)
    told.append(await streamed(sdk, **run))
    admin.ledger()

    rows = {row["kind"]: row for row in admin.get("usage", user_id="run-1")["runs"]}

    live = rows["live"]
    assert live["calls"] == len(told)
    for name in (
        "input_tokens",
        "output_tokens",
        "cache_read_input_tokens",
        "cache_creation_input_tokens",
    ):
        assert live[name] == sum(getattr(message.usage, name) for message in told)
    assert live["cache_creation_1h_input_tokens"] == live["cache_creation_input_tokens"] > 0
    assert rows["broken"]["calls"] == 1
    assert rows["broken"]["input_tokens"] == told[2].usage.input_tokens
    assert 0 < rows["broken"]["output_tokens"] < told[0].usage.output_tokens
    total = admin.get("usage")["total"]
    assert (5, 1, 0) == tuple(total[kind]["calls"] for kind in ("live", "broken", "batch"))


async def test_a_cancelled_call_is_charged_for_what_it_had(sdk, admin) -> None:
    """The tokens until the client left."""
    admin.put("faults", chunk_delay_ms=50)
    async with sdk.messages.stream(**ASKED) as stream:
        async for _ in stream.text_stream:
            break
    admin.ledger()

    (row,) = admin.get("usage")["runs"]
    (call,) = admin.get("requests")
    assert (row["kind"], row["calls"]) == ("cancelled", 1)
    assert 0 < row["output_tokens"] == call["output_tokens"]
    assert row["input_tokens"] == call["input_tokens"] > 0


async def test_a_truncated_answer_can_be_continued_without_its_schema(sdk) -> None:
    """The pieces are the whole answer, which fits."""
    asked = ASKED | {"output_config": SUMMARY}
    whole = await sdk.messages.create(**asked)
    text = (await sdk.messages.create(**asked | {"max_tokens": 6})).content[0].text
    turns = [
        *ASKED["messages"],
        {"role": "assistant", "content": text},
        {"role": "user", "content": "Continue it with the very next character."},
    ]

    rest = await sdk.messages.create(**ASKED | {"messages": turns})

    assert whole.content[0].text == text + rest.content[0].text
    assert json.loads(text + rest.content[0].text)


async def test_a_paused_turn_goes_on_when_it_is_given_back(sdk, admin) -> None:
    """As it came, blocks and all."""
    whole = await sdk.messages.create(**ASKED)
    admin.put("faults", fault="pause_turn", count=1)
    paused = await sdk.messages.create(**ASKED)
    turns = [*ASKED["messages"], {"role": "assistant", "content": paused.content}]

    rest = await sdk.messages.create(**ASKED | {"messages": turns})

    assert paused.stop_reason == "pause_turn"
    assert whole.content[0].text == paused.content[0].text + rest.content[0].text


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ({"fault": "midstream_overloaded"}, ("overloaded_error", None)),
        (
            {
                "fault": "midstream_error",
                "error_type": "rate_limit_error",
                "error_code": "enforced_spend_limit_reached",
            },
            ("rate_limit_error", "enforced_spend_limit_reached"),
        ),
    ],
)
async def test_a_stream_can_end_in_an_error(sdk, admin, rule, expected) -> None:
    """Under status 200."""
    admin.put("faults", **rule)

    with pytest.raises(anthropic.APIStatusError) as caught:
        await streamed(sdk)

    assert expected == (caught.value.type, caught.value.error_code)
    assert caught.value.response.status_code == 200


async def test_a_stream_can_end_too_early_in_good_order(sdk, admin) -> None:
    """Without message_stop, which is all that tells."""
    admin.put("faults", fault="truncated_stream")

    async with sdk.messages.stream(**ASKED) as stream:
        events = [event.type async for event in stream]

    assert "content_block_delta" in events
    assert "message_stop" not in events
    assert admin.ledger()["error"] == 1


@pytest.mark.parametrize("shape", [{}, {"output_config": SUMMARY}])
async def test_pieces_can_say_when_they_left(sdk, admin, shape) -> None:
    """Each in a time of its own; without the stamps the answer is the same."""
    plain = await streamed(sdk, **shape)
    admin.put("faults", stamp_pieces=True, chunk_delay_ms=10)
    before = utc_now()

    async with sdk.messages.stream(**ASKED | shape) as stream:
        pieces = [piece async for piece in stream.text_stream]

    text = "".join(pieces)
    times = [datetime.fromtimestamp(float(found), UTC) for found in STAMP.findall(text)]
    assert plain.content[0].text == STAMP.sub("", text)
    assert times == sorted(times)
    assert before - timedelta(seconds=1) < times[0] <= times[-1] < utc_now() + timedelta(seconds=1)
    if not shape:
        assert len(times) == len(pieces) > 10
