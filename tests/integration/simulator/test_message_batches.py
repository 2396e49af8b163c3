"""The Message Batches API, as the SDK uses it."""

import asyncio
from typing import Any

import anthropic
import httpx2
import pytest
from anthropic.types.messages import MessageBatch, MessageBatchIndividualResponse

MODEL = "claude-sonnet-5-5"
ENDS_WITHIN_S = 10


def params(text: str, **changes: Any) -> dict[str, Any]:
    """A request for an answer about that text."""
    asked = {"model": MODEL, "max_tokens": 100, "messages": [{"role": "user", "content": text}]}
    return asked | changes


def requests(count: int, **changes: Any) -> list[Any]:
    """So many requests, each with a text of its own."""
    return [
        {"custom_id": f"row-{number}", "params": params(f"Harbour {number} freezes.", **changes)}
        for number in range(count)
    ]


async def ended(sdk: anthropic.AsyncAnthropic, batch: MessageBatch) -> MessageBatch:
    """The batch once it has ended."""
    async with asyncio.timeout(ENDS_WITHIN_S):
        while batch.processing_status != "ended":
            await asyncio.sleep(0.02)
            batch = await sdk.messages.batches.retrieve(batch.id)
    return batch


async def results(
    sdk: anthropic.AsyncAnthropic, batch: MessageBatch
) -> list[MessageBatchIndividualResponse]:
    """What came of its requests, in the order in which it is told."""
    return [result async for result in await sdk.messages.batches.results(batch.id)]


async def test_a_batch_gives_the_answers_that_live_calls_give(sdk, admin) -> None:
    """In another order, and charged as a batch."""
    asked = requests(20, metadata={"user_id": "run-1"})
    batch = await ended(sdk, await sdk.messages.batches.create(requests=asked))
    found = await results(sdk, batch)

    assert batch.request_counts.succeeded == 20
    assert batch.request_counts.processing == 0
    assert batch.results_url == f"{admin.url}/v1/messages/batches/{batch.id}/results"
    assert batch.ended_at is not None
    assert batch.ended_at >= batch.created_at
    ids = [result.custom_id for result in found]
    assert sorted(ids) == sorted(request["custom_id"] for request in asked) != ids
    by_id = {result.custom_id: result.result for result in found}
    usage = {"input_tokens": 0, "output_tokens": 0}
    for request in asked:
        result = by_id[request["custom_id"]]
        assert result.type == "succeeded"
        live = await sdk.messages.create(**request["params"])
        assert live.content == result.message.content
        assert live.usage.input_tokens == result.message.usage.input_tokens
        assert result.message.usage.service_tier == "batch"
        for name in usage:
            usage[name] += getattr(result.message.usage, name)
    charged = admin.get("usage")["total"]["batch"]
    assert usage | {"calls": 20} == {name: charged[name] for name in (*usage, "calls")}


async def test_the_same_batch_goes_the_same_way_again(sdk, admin) -> None:
    """Shares of requests fail, by dice that can be thrown again."""
    outcomes = []
    for seed in (1, 1, 2):
        admin.put("batches", errored_rate=0.3, expired_rate=0.2, seed=seed)
        batch = await ended(sdk, await sdk.messages.batches.create(requests=requests(100)))
        found = await results(sdk, batch)
        outcomes.append([(result.custom_id, result.result.type) for result in found])
        counts = batch.request_counts
        assert counts.succeeded + counts.errored + counts.expired == 100
        assert 15 < counts.errored < 45
        assert 8 < counts.expired < 35

    assert outcomes[0] == outcomes[1] != outcomes[2]


async def test_bad_parameters_are_errors_of_their_requests(sdk, admin) -> None:
    """The batch is taken; who is wrong is told in the results, with the type that the rules say for dice."""
    asked = [
        {"custom_id": "good", "params": params("Hello")},
        {"custom_id": "bad", "params": params("Hello") | {"max_tokens": 0}},
        {"custom_id": "streamed", "params": params("Hello", stream=True)},
    ]
    batch = await ended(sdk, await sdk.messages.batches.create(requests=asked))
    by_id = {result.custom_id: result.result for result in await results(sdk, batch)}

    assert by_id["good"].type == "succeeded"
    for custom_id, place in (("bad", "max_tokens"), ("streamed", "stream")):
        result = by_id[custom_id]
        assert result.type == "errored"
        assert result.error.error.type == "invalid_request_error"
        assert place in result.error.error.message
    admin.put("batches", errored_rate=1, error_type="overloaded_error")
    batch = await ended(sdk, await sdk.messages.batches.create(requests=requests(1)))
    (only,) = await results(sdk, batch)
    assert only.result.type == "errored"
    assert only.result.error.error.type == "overloaded_error"


@pytest.mark.parametrize(
    "wrong", [[], [*requests(1), *requests(1)], [{"custom_id": "a b", "params": params("x")}]]
)
async def test_a_wrong_batch_is_refused(sdk, wrong) -> None:
    """Without requests, or with custom_ids that cannot be."""
    with pytest.raises(anthropic.BadRequestError):
        await sdk.messages.batches.create(requests=wrong)

    assert [] == (await sdk.messages.batches.list()).data


async def test_a_batch_takes_its_time_and_can_be_hurried(sdk, admin) -> None:
    """Until then there are no results, and it cannot be deleted; after, it can."""
    admin.put("batches", seconds=3600)
    batch = await sdk.messages.batches.create(requests=requests(2))
    assert (await sdk.messages.batches.retrieve(batch.id)).processing_status == "in_progress"
    with pytest.raises(anthropic.AnthropicError, match="No `results_url`"):
        await results(sdk, batch)
    with pytest.raises(anthropic.BadRequestError, match="has not ended"):
        await sdk.messages.batches.delete(batch.id)

    admin.put("batches", seconds=0)

    await ended(sdk, batch)
    assert len(await results(sdk, batch)) == 2
    assert (await sdk.messages.batches.delete(batch.id)).type == "message_batch_deleted"
    with pytest.raises(anthropic.NotFoundError):
        await sdk.messages.batches.retrieve(batch.id)


async def test_a_cancelled_batch_ends_with_what_is_done(sdk, admin) -> None:
    """Of an hour's work nothing is, after a moment."""
    admin.put("batches", seconds=3600)
    batch = await sdk.messages.batches.create(requests=requests(3))

    canceling = await sdk.messages.batches.cancel(batch.id)
    batch = await ended(sdk, batch)

    assert canceling.processing_status == "canceling"
    assert canceling.cancel_initiated_at is not None
    assert batch.request_counts.canceled == 3
    assert {"canceled"} == {result.result.type for result in await results(sdk, batch)}
    assert admin.get("usage")["total"]["batch"]["calls"] == 0


async def test_all_batches_are_found_page_by_page(sdk) -> None:
    """The newest first, as the SDK goes through them."""
    made = [(await sdk.messages.batches.create(requests=requests(1))).id for _ in range(5)]

    found = [batch.id async for batch in sdk.messages.batches.list(limit=2)]
    backwards = [batch.id async for batch in sdk.messages.batches.list(limit=2, before_id=made[0])]

    assert made[::-1] == found
    assert sorted(made[1:]) == sorted(backwards)


async def test_a_batch_can_be_made_though_its_answer_is_lost(sdk, admin) -> None:
    """What has to be found again by listing, not submitted again."""
    for fault in ("drop", "bad_gateway"):
        admin.put("faults", fault=fault, count=1, place="batch_create")
        with pytest.raises(anthropic.APIError):
            await sdk.messages.batches.create(requests=requests(1))
    admin.put("faults", fault="hang", count=1, place="batch_create")
    with pytest.raises(anthropic.APITimeoutError):
        await sdk.with_options(timeout=0.3).messages.batches.create(requests=requests(1))
    admin.put("faults", fault="overloaded", count=1, place="batch_create")
    with pytest.raises(anthropic.InternalServerError):
        await sdk.messages.batches.create(requests=requests(1))

    assert len((await sdk.messages.batches.list()).data) == 3
    assert len(admin.get("batches")["batches"]) == 3


async def test_results_can_be_cut_off(sdk, admin) -> None:
    """By the connection's end, or in good order; asked again, they are whole."""
    batch = await ended(sdk, await sdk.messages.batches.create(requests=requests(10)))
    for fault in ("overloaded", "drop", "truncated_stream"):
        admin.put("faults", fault=fault, count=1, place="batch_results")

    with pytest.raises(anthropic.InternalServerError):
        await results(sdk, batch)
    with pytest.raises((httpx2.HTTPError, ValueError)):
        await results(sdk, batch)
    assert len(await results(sdk, batch)) == 5
    assert len(await results(sdk, batch)) == 10


async def test_faults_can_hit_requests_within_a_batch(sdk, admin) -> None:
    """An error is its result; so is a spoilt answer. Live calls are spared."""
    admin.put("faults", fault="billing", match="Harbour 0", place="batch_request")
    admin.put("faults", fault="max_tokens", match="Harbour 1", place="batch_request")

    batch = await ended(sdk, await sdk.messages.batches.create(requests=requests(3)))
    live = await sdk.messages.create(**params("Harbour 0 freezes."))

    by_id = {result.custom_id: result.result for result in await results(sdk, batch)}
    assert by_id["row-0"].type == "errored"
    assert by_id["row-0"].error.error.type == "billing_error"
    assert by_id["row-1"].type == "succeeded"
    assert by_id["row-1"].message.stop_reason == "max_tokens"
    assert by_id["row-2"].type == "succeeded"
    assert live.stop_reason == "end_turn"


async def test_prefixes_are_cached_within_a_batch(sdk) -> None:
    """Written by one request, read by the others."""
    shared = {"type": "text", "text": "word " * 2000, "cache_control": {"type": "ephemeral"}}
    asked = [
        {
            "custom_id": str(number),
            "params": params("") | {"messages": [{"role": "user", "content": [shared, question]}]},
        }
        for number, question in enumerate([{"type": "text", "text": f"{n}?"} for n in range(3)])
    ]

    batch = await ended(sdk, await sdk.messages.batches.create(requests=asked))

    messages = [result.result.message for result in await results(sdk, batch)]
    assert [0, 0, 2004] == sorted(message.usage.cache_creation_input_tokens for message in messages)
    assert [0, 2004, 2004] == sorted(message.usage.cache_read_input_tokens for message in messages)
