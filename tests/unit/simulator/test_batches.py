"""services.simulator.batches and batch_pages: what a batch says of itself, and lists of them."""

from collections import Counter
from typing import Any

import pytest
from pydantic import ValidationError

from services.simulator.batch_pages import PageQuery, find_page
from services.simulator.batches import BatchBoard, BatchBody, BatchRules, ResultType
from services.simulator.errors import ApiError, InvalidRequestError

URL = "http://simulator/"


def body(*custom_ids: str) -> BatchBody:
    """A batch with these requests."""
    requests = [{"custom_id": custom_id, "params": {}} for custom_id in custom_ids]
    return BatchBody.model_validate({"requests": requests})


def board_of(count: int) -> BatchBoard:
    """A board with so many batches."""
    board = BatchBoard(seconds=60)
    for _ in range(count):
        board.add(body("a").requests)
    return board


@pytest.mark.parametrize(
    "custom_ids", [(), ("a", "b", "a"), ("",), ("a b",), ("ä",), ("a" * 65,), ("a\n",)]
)
def test_wrong_batches_are_refused(custom_ids):
    """Empty ones, and custom_ids that are no name or not unique."""
    with pytest.raises(ValidationError):
        body(*custom_ids)


def test_a_new_batch_is_in_progress():
    """All its requests are processing; there are no results."""
    batch = BatchBoard(seconds=60).add(body("a", "b_B-9").requests)

    said = batch.describe(URL)

    assert said["processing_status"] == "in_progress"
    assert said["request_counts"] == {
        "processing": 2,
        "succeeded": 0,
        "errored": 0,
        "expired": 0,
        "canceled": 0,
    }
    assert (None, None, None) == (
        said["results_url"],
        said["ended_at"],
        said["cancel_initiated_at"],
    )


def test_an_ended_batch_has_counts_and_results():
    """Where the client that asks can get them; the requests are forgotten."""
    batch = BatchBoard(seconds=60).add(body("a", "b").requests)
    batch.cancel()
    assert batch.describe(URL)["processing_status"] == "canceling"

    batch.end([b"{}\n", b"{}\n"], Counter({ResultType.SUCCEEDED: 1, ResultType.CANCELED: 1}))

    said = batch.describe("https://proxy.example/")
    assert said["processing_status"] == "ended"
    assert said["results_url"] == (f"https://proxy.example/v1/messages/batches/{batch.id}/results")
    assert (0, 1, 1) == (
        said["request_counts"]["processing"],
        said["request_counts"]["succeeded"],
        said["request_counts"]["canceled"],
    )
    assert batch.requests == ()
    with pytest.raises(InvalidRequestError, match="has ended"):
        batch.cancel()


def test_only_ended_batches_can_be_deleted():
    """And then they are gone."""
    board = BatchBoard(seconds=60)
    batch = board.add(body("a").requests)
    with pytest.raises(InvalidRequestError, match="has not ended"):
        board.delete(batch.id)
    batch.end([], Counter())

    board.delete(batch.id)

    with pytest.raises(ApiError) as caught:
        board.get(batch.id)
    assert (404, "not_found_error") == (caught.value.status, caught.value.error_type)


def test_rules_say_how_long_batches_take():
    """Where they do not, the settings do."""
    board = BatchBoard(seconds=60)
    assert board.seconds == 60

    board.put(BatchRules(seconds=0))
    assert board.seconds == 0


def test_more_cannot_fail_than_there_is():
    """The shares are of the same requests."""
    with pytest.raises(ValidationError):
        BatchRules(errored_rate=0.6, expired_rate=0.6)


def page(board: BatchBoard, **query: Any) -> tuple[list[int], bool]:
    """The numbers of the batches on a page, and whether there are more."""
    batches = board.newest_first
    found = find_page(batches, PageQuery.model_validate(query), URL)
    ids = [batch["id"] for batch in found["data"]]
    assert (ids[0], ids[-1]) == (found["first_id"], found["last_id"])
    return [board.get(batch_id).number for batch_id in ids], found["has_more"]


def test_batches_are_listed_newest_first_and_page_by_page():
    """Forwards to older ones, backwards to newer ones."""
    board = board_of(7)
    ids = {batch.number: batch.id for batch in board.newest_first}

    assert ([7, 6, 5, 4, 3, 2, 1], False) == page(board)
    assert ([7, 6, 5], True) == page(board, limit=3)
    assert ([4, 3, 2], True) == page(board, limit=3, after_id=ids[5])
    assert ([1], False) == page(board, limit=3, after_id=ids[2])
    assert ([5, 4, 3], True) == page(board, limit=3, before_id=ids[2])
    assert ([7, 6], False) == page(board, limit=3, before_id=ids[5])


def test_the_last_page_may_be_empty():
    """Nothing comes after the oldest."""
    board = board_of(1)

    found = find_page(board.newest_first, PageQuery(after_id=board.newest_first[0].id), URL)

    assert ([], False, None, None) == (
        found["data"],
        found["has_more"],
        found["first_id"],
        found["last_id"],
    )


@pytest.mark.parametrize("query", [{"after_id": "x"}, {"before_id": "x", "after_id": "y"}])
def test_a_wrong_place_is_a_wrong_request(query):
    """There is no page there."""
    with pytest.raises(InvalidRequestError):
        find_page(board_of(1).newest_first, PageQuery.model_validate(query), URL)
