"""services.simulator.ledger: the last calls, the sums of all."""

from services.core.clock import utc_now
from services.simulator.ledger import Ledger, LoggedRequest, Outcome


def open_call(ledger: Ledger) -> LoggedRequest:
    """A call that has come in."""
    return ledger.open(
        received_at=utc_now(),
        model="claude-sonnet-5-5",
        is_streamed=True,
        prompt_sha256="0" * 64,
        prompt_start="Hello",
        user_id=None,
    )


def close_call(ledger: Ledger, call: LoggedRequest, *, output_tokens: int = 0) -> None:
    """The call has been answered."""
    call.outcome, call.output_tokens = Outcome.ANSWERED, output_tokens
    ledger.close(call, duration_ms=12.34)


def test_sums_outlive_the_log():
    """Old calls leave the log, not the totals."""
    ledger = Ledger(max_requests=2)

    for _ in range(5):
        close_call(ledger, open_call(ledger), output_tokens=3)

    assert [call["number"] for call in ledger.requests()] == [4, 5]
    assert ledger.totals()["requests"] == 5
    assert ledger.totals()["output_tokens"] == 15
    assert ledger.totals()["answered"] == 5


def test_open_calls_are_counted():
    """How many are under way, and how many were at most."""
    ledger = Ledger(max_requests=10)
    calls = [open_call(ledger) for _ in range(3)]
    close_call(ledger, calls[0])

    assert ledger.totals()["open"] == 2
    assert ledger.totals()["most_open"] == 3


def test_clear_keeps_what_is_under_way():
    """A call that began before is still there to end after."""
    ledger = Ledger(max_requests=10)
    close_call(ledger, open_call(ledger), output_tokens=3)
    still_open = open_call(ledger)

    ledger.clear()
    close_call(ledger, still_open, output_tokens=4)

    assert [call["number"] for call in ledger.requests()] == [2]
    assert ledger.totals()["output_tokens"] == 4
    assert ledger.totals()["requests"] == 0
    assert ledger.totals()["open"] == 0
