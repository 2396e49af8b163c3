"""services.simulator.limits: requests, input and output tokens per model and minute."""

from datetime import datetime, timedelta

import pytest

from services.core.clock import utc_now
from services.simulator.errors import ApiError
from services.simulator.limits import LimitBoard, Limits

SONNET = "claude-sonnet-5-5"
HAIKU = "claude-haiku-5-5"


def refusal(board: LimitBoard, model: str, input_tokens: int = 1) -> ApiError:
    """The error of a call that has to be refused."""
    with pytest.raises(ApiError) as caught:
        board.of(model).admit(model, input_tokens=input_tokens)
    return caught.value


def test_without_limits_all_calls_are_let_in_and_no_header_is_sent():
    """As it was before there were any."""
    board = LimitBoard()
    for _ in range(10_000):
        board.of(SONNET).admit(SONNET, input_tokens=10**9)

    assert {} == board.of(SONNET).headers()


def test_each_model_has_a_bucket_of_its_own():
    """One model's calls leave the others what they have."""
    board = LimitBoard(Limits(requests_per_min=2))
    for _ in range(2):
        board.of(SONNET).admit(SONNET, input_tokens=1)

    error = refusal(board, SONNET)
    board.of(HAIKU).admit(HAIKU, input_tokens=1)

    assert (429, "rate_limit_error") == (error.status, error.error_type)
    assert "2 requests per minute" in error.message
    assert error.retry_after == "30"


def test_a_refused_call_uses_nothing_up():
    """However often a client comes too early, it does not come later for it."""
    board = LimitBoard(Limits(requests_per_min=10, input_tokens_per_min=600))
    board.of(SONNET).admit(SONNET, input_tokens=600)
    for _ in range(20):
        refusal(board, SONNET, input_tokens=100)

    assert refusal(board, SONNET, input_tokens=100).retry_after == "10"
    assert board.of(SONNET).headers()["anthropic-ratelimit-requests-remaining"] == "9"


def test_a_prompt_larger_than_the_bucket_needs_it_full():
    """It is let in at some time, and those behind it pay."""
    board = LimitBoard(Limits(input_tokens_per_min=60))

    board.of(SONNET).admit(SONNET, input_tokens=120)

    assert refusal(board, SONNET).retry_after == "61"


def test_output_tokens_count_when_they_are_produced():
    """The call that produces too many is not cut off; the next waits."""
    board = LimitBoard(Limits(output_tokens_per_min=60))
    limits = board.of(SONNET)
    limits.admit(SONNET, input_tokens=1)
    limits.admit(SONNET, input_tokens=1)

    limits.produce(90)

    assert refusal(board, SONNET).retry_after == "31"


def test_headers_say_what_is_left_and_when_it_is_whole_again():
    """Names and formats are the API's."""
    board = LimitBoard(
        Limits(requests_per_min=60, input_tokens_per_min=600, output_tokens_per_min=6000)
    )
    limits = board.of(SONNET)
    limits.admit(SONNET, input_tokens=100)
    limits.produce(600)

    headers = limits.headers()

    for kind, limit, remaining, full_in_s in [
        ("requests", "60", "59", 1),
        ("input-tokens", "600", "500", 10),
        ("output-tokens", "6000", "5400", 6),
    ]:
        prefix = f"anthropic-ratelimit-{kind}"
        reset = datetime.fromisoformat(headers[f"{prefix}-reset"])
        assert (limit, remaining) == (headers[f"{prefix}-limit"], headers[f"{prefix}-remaining"])
        assert abs(reset - utc_now() - timedelta(seconds=full_in_s)) < timedelta(seconds=2)
        assert headers[f"{prefix}-reset"].endswith("Z")


def test_what_is_left_of_real_token_limits_is_rounded():
    """To thousands, as the API does; requests are exact."""
    board = LimitBoard(Limits(requests_per_min=50_000, input_tokens_per_min=50_000))
    board.of(SONNET).admit(SONNET, input_tokens=12_345)

    headers = board.of(SONNET).headers()

    assert headers["anthropic-ratelimit-input-tokens-remaining"] == "38000"
    assert headers["anthropic-ratelimit-requests-remaining"] == "49999"


def test_new_limits_begin_with_full_buckets_and_only_for_their_models():
    """`*` holds for the models that have none of their own."""
    board = LimitBoard()
    board.put(Limits(requests_per_min=1))
    board.put(Limits(model=HAIKU, requests_per_min=1))
    for model in (SONNET, HAIKU):
        board.of(model).admit(model, input_tokens=1)

    board.put(Limits(requests_per_min=2))

    refusal(board, HAIKU)
    board.of(SONNET).admit(SONNET, input_tokens=1)
    assert [2, 1] == [limits.requests_per_min for limits in board.limits]


def test_clear_goes_back_to_the_defaults():
    """With full buckets."""
    board = LimitBoard(Limits(requests_per_min=1))
    board.of(SONNET).admit(SONNET, input_tokens=1)
    board.put(Limits(model=SONNET, requests_per_min=9))

    board.clear()

    assert [Limits(requests_per_min=1)] == board.limits
    board.of(SONNET).admit(SONNET, input_tokens=1)
    refusal(board, SONNET)


def test_the_state_shows_limits_and_what_is_left():
    """Of the models that were asked."""
    board = LimitBoard(Limits(requests_per_min=5, burst_s=12))
    board.of(SONNET).admit(SONNET, input_tokens=1)

    state = board.state()

    assert state["limits"][0]["requests_per_min"] == 5
    assert [SONNET] == list(state["models"])
    assert (5, 0) == (
        state["models"][SONNET]["requests"]["limit"],
        state["models"][SONNET]["requests"]["remaining"],
    )
