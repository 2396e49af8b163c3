"""services.simulator.call_counts: how often each question was asked."""

import tracemalloc
from uuid import UUID

from services.simulator.call_counts import CallCount, CallCounts

PROMPT = "ab" * 32


def test_calls_are_counted_by_run_and_prompt():
    """The same prompt of another run, or another prompt of the same run, is another line."""
    counts = CallCounts()
    for run_id, prompt in (("1", PROMPT), ("1", PROMPT), ("2", PROMPT), ("1", "cd" * 32)):
        counts.note_started(run_id, prompt)
    counts.note_answered("1", PROMPT)

    assert [
        CallCount("1", PROMPT, started=2, answered=1),
        CallCount("2", PROMPT, started=1, answered=0),
        CallCount("1", "cd" * 32, started=1, answered=0),
    ] == list(counts)


def test_a_call_from_before_the_clear_is_not_counted():
    """What began before belongs to what was counted before."""
    counts = CallCounts()
    counts.note_started(None, PROMPT)
    counts.clear()
    counts.note_answered(None, PROMPT)

    assert [] == list(counts)


def test_calls_may_come_in_while_others_are_read():
    """The answer is sent in pieces; a call between two of them breaks nothing."""
    counts = CallCounts()
    counts.note_started("1", PROMPT)
    counts.note_started("2", PROMPT)

    reading = iter(counts)
    first = next(reading)
    counts.note_started("3", PROMPT)

    assert ["1", "2"] == [first.run_id, *(count.run_id for count in reading)]


def test_a_million_calls_fit_the_container():
    """It has 512 MB: 250 bytes each leave half of them for all else."""
    tracemalloc.start()
    try:
        counts = CallCounts()
        for number in range(10_000):
            run_id, prompt = str(UUID(int=number)), f"{number:064x}"
            counts.note_started(run_id, prompt)
            counts.note_answered(run_id, prompt)
        used_bytes, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert used_bytes / 10_000 < 250
