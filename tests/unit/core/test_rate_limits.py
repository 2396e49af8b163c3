"""What headers say of limits."""

from datetime import UTC, datetime

import pytest

from services.core.rate_limits import SeenLimit, SeenLimits

HEADERS = {
    "anthropic-ratelimit-requests-limit": "4000",
    "anthropic-ratelimit-requests-remaining": "3999",
    "anthropic-ratelimit-requests-reset": "2026-11-23T19:20:30Z",
    "anthropic-ratelimit-input-tokens-limit": "2000000",
    "anthropic-ratelimit-input-tokens-remaining": "1998000",
    "anthropic-ratelimit-input-tokens-reset": "2026-11-23T20:20:31.5+01:00",
    "anthropic-ratelimit-output-tokens-limit": "400000",
    "anthropic-ratelimit-output-tokens-remaining": "0",
    "anthropic-ratelimit-output-tokens-reset": "2026-11-23T19:21:00Z",
    "retry-after": "7",
}


def test_from_headers_reads_all_limits() -> None:
    """Limit, remaining and reset of requests, input tokens and output tokens."""
    seen = SeenLimits.from_headers(HEADERS)

    assert seen == SeenLimits(
        requests=SeenLimit(4000, 3999, datetime(2026, 11, 23, 19, 20, 30, tzinfo=UTC)),
        input_tokens=SeenLimit(
            2_000_000, 1_998_000, datetime(2026, 11, 23, 19, 20, 31, 500_000, tzinfo=UTC)
        ),
        output_tokens=SeenLimit(400_000, 0, datetime(2026, 11, 23, 19, 21, tzinfo=UTC)),
    )


def test_from_headers_takes_what_is_there() -> None:
    """A limit that is not shown is None, a reset that is missing as well."""
    seen = SeenLimits.from_headers(
        {
            "anthropic-ratelimit-requests-limit": "50",
            "anthropic-ratelimit-requests-remaining": "49",
            "anthropic-ratelimit-input-tokens-limit": "1000",
        }
    )

    assert seen == SeenLimits(requests=SeenLimit(50, 49, None))


def test_from_headers_without_limits_is_none() -> None:
    """A proxy may drop them all."""
    assert SeenLimits.from_headers({"content-type": "application/json"}) is None


@pytest.mark.parametrize("bad", ["", "-1", "1.5", "many", "٣", "0", " 5"])
def test_from_headers_ignores_limits_that_make_no_sense(bad: str) -> None:
    """A limit of 0, of which nothing would ever get through, included."""
    headers = {
        "anthropic-ratelimit-requests-limit": bad,
        "anthropic-ratelimit-requests-remaining": "1",
    }

    assert SeenLimits.from_headers(headers) is None


@pytest.mark.parametrize("bad", ["", "soon", "2026-11-23T19:20:30", "2026-13-01T00:00:00Z"])
def test_from_headers_ignores_resets_that_make_no_sense(bad: str) -> None:
    """A time without zone included: it could be any."""
    seen = SeenLimits.from_headers(
        {
            "anthropic-ratelimit-requests-limit": "50",
            "anthropic-ratelimit-requests-remaining": "49",
            "anthropic-ratelimit-requests-reset": bad,
        }
    )

    assert seen == SeenLimits(requests=SeenLimit(50, 49, None))


def test_from_headers_is_quick_with_huge_numbers() -> None:
    """Digits without end are cut off, not computed."""
    seen = SeenLimits.from_headers(
        {
            "anthropic-ratelimit-requests-limit": "9" * 100_000,
            "anthropic-ratelimit-requests-remaining": "1",
        }
    )

    assert seen == SeenLimits(requests=SeenLimit(10**18 - 1, 1, None))
