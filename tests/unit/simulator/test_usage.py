"""services.simulator.usage: sums by run, kind and model."""

from services.simulator.answer import answer_request
from services.simulator.prompt_cache import CacheUse
from services.simulator.schemas import MessagesRequest
from services.simulator.usage import Kind, UsageBook, Used, used_by

SONNET = "claude-sonnet-5-5"


def test_sums_are_kept_apart_and_together():
    """By run, kind and model, and over all by kind."""
    book = UsageBook()
    book.add("run-1", Kind.LIVE, SONNET, Used(calls=1, input_tokens=10, output_tokens=2))
    book.add("run-1", Kind.LIVE, SONNET, Used(calls=1, input_tokens=5, output_tokens=1))
    book.add("run-1", Kind.BATCH, SONNET, Used(calls=1, input_tokens=7))
    book.add("run-2", Kind.LIVE, "claude-haiku-5-5", Used(calls=1, cache_read_input_tokens=9))

    (live, batch) = book.rows("run-1")
    assert ("live", 2, 15, 3) == (
        live["kind"],
        live["calls"],
        live["input_tokens"],
        live["output_tokens"],
    )
    assert ("batch", 7) == (batch["kind"], batch["input_tokens"])
    assert len(list(book.rows())) == 3
    totals = book.totals()
    assert (3, 15, 9) == (
        totals["live"]["calls"],
        totals["live"]["input_tokens"],
        totals["live"]["cache_read_input_tokens"],
    )
    assert totals["broken"]["calls"] == 0


def test_all_that_an_answer_used_is_counted():
    """Each kind of token for itself."""
    request = MessagesRequest.model_validate(
        {"model": SONNET, "max_tokens": 9, "messages": [{"role": "user", "content": "Hello"}]}
    )
    cache = CacheUse(1, read_tokens=2, written_5m_tokens=3, written_1h_tokens=4)

    used = used_by(answer_request(request, cache=cache), output_tokens=5)

    assert used == Used(
        calls=1,
        input_tokens=1,
        output_tokens=5,
        cache_read_input_tokens=2,
        cache_creation_input_tokens=7,
        cache_creation_1h_input_tokens=4,
    )


def test_clear_forgets_all():
    """The next test begins at nothing."""
    book = UsageBook()
    book.add(None, Kind.LIVE, SONNET, Used(calls=1))

    book.clear()

    assert [] == list(book.rows())
