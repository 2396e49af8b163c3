"""services.simulator.token_bucket: full at first, filled steadily, overdrawn at times."""

import pytest

from services.simulator.token_bucket import TokenBucket


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    """A clock that stands still."""
    return Clock()


def test_it_is_full_at_first_and_fills_steadily(clock):
    """60 per minute are one per second, up to what it holds."""
    bucket = TokenBucket(60, clock=clock)
    bucket.take(60)
    assert bucket.level == 0

    clock.now_s += 10
    assert bucket.level == pytest.approx(10)
    clock.now_s += 1000
    assert bucket.level == 60


@pytest.mark.parametrize(("amount", "wait_s"), [(1, 0), (10, 0), (15, 5), (60, 50), (1000, 50)])
def test_it_says_when_there_is_room(clock, amount, wait_s):
    """More than it ever holds has room once it is full."""
    bucket = TokenBucket(60, clock=clock)
    bucket.take(50)

    assert wait_s == pytest.approx(bucket.wait_s(amount))


def test_what_is_taken_too_much_is_waited_for(clock):
    """An answer under way is not cut off; the debt is paid by those that come later."""
    bucket = TokenBucket(60, clock=clock)
    bucket.take(90)

    assert bucket.wait_s(1) == pytest.approx(31)
    assert bucket.full_in_s == pytest.approx(90)


def test_the_burst_can_be_shorter_than_the_minute(clock):
    """One second's worth: no more than that at once, but no less per minute."""
    bucket = TokenBucket(600, burst_s=1, clock=clock)
    bucket.take(10)

    assert bucket.capacity == 10
    assert bucket.wait_s(1) == pytest.approx(0.1)
