"""What Flower is told about runs."""

from dataclasses import replace

import pytest

from services.core.runs.models import Failure
from services.core.runs.states import FailureReason
from services.worker.endings import Ending, Failed, Parked, Retrying, Succeeded
from services.worker.reporter import Room, RunReporter
from tests.fakes.memory_store import MemoryRunStore


class Told(RunReporter):
    """A reporter whose events stay here."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict]] = []
        self._outbox = self
        self._room = Room(at_once=4, per_s=0)

    def put(self, *event, **fields) -> None:
        if len(event) == 1:
            self.events.append(event[0])
        else:
            super().put(*event, **fields)


@pytest.fixture
def told() -> Told:
    return Told()


def test_a_run_begins_as_a_task_that_was_received_and_started(told: Told) -> None:
    """Its name is the pipeline's, its id and argument are the run's."""
    lease = replace(MemoryRunStore().add_run().lease, fence=1)

    told.report_start(lease)
    (received, fields), (started, _) = told.events

    assert ("task-received", "task-started") == (received, started)
    assert (str(lease.run_id), "run:tiny") == (fields["uuid"], fields["name"])
    assert str(lease.run_id) in fields["args"]


@pytest.mark.parametrize(
    ("ending", "event", "text"),
    [
        (Succeeded({}, None), "task-succeeded", None),
        (Retrying("ask", "busy", 3), "task-retried", "ask: busy"),
        (Parked("ask", 3, "budget"), "task-retried", "ask waits: budget"),
        (
            Failed(Failure(FailureReason.CRASHED, "ask", "gone", 3)),
            "task-failed",
            "crashed: gone",
        ),
    ],
)
def test_a_run_ends_as_its_ending_says(
    told: Told, ending: Ending, event: str, text: str | None
) -> None:
    """Success has a runtime, the others an explanation."""
    lease = replace(MemoryRunStore().add_run().lease, fence=1)

    told.report_start(lease).end(ending)
    name, fields = told.events[-1]

    assert event == name
    assert text == fields.get("exception")
    assert (fields.get("runtime", -1) >= 0) is (event == "task-succeeded")


def test_each_execution_is_a_task_of_its_own(told: Told) -> None:
    """Flower never leaves a final state, so what runs again after one needs another id."""
    lease = MemoryRunStore().add_run().lease

    for fence in (1, 2, 3):
        told.report_start(replace(lease, fence=fence))
    uuids = [fields["uuid"] for name, fields in told.events if name == "task-received"]

    assert [f"{lease.run_id}", f"{lease.run_id}.2", f"{lease.run_id}.3"] == uuids


def test_no_more_is_reported_than_flower_can_take(told: Told) -> None:
    """What begins beyond that is told neither at its start nor at its end."""
    lease = MemoryRunStore().add_run().lease
    reports = [told.report_start(lease) for _ in range(5)]

    begun = len(told.events)
    reports[4].end(Succeeded({}, None))
    reports[4].interrupt("stop")

    assert (8, 8) == (begun, len(told.events))


def test_room_grows_back_with_time() -> None:
    """As many as come in the long run, and so many at once after a pause."""
    room = Room(at_once=2, per_s=8)

    assert [True, True, False] == [room.take(now_s) for now_s in (5.0, 5.0, 5.0)]
    assert [True, False] == [room.take(5.125), room.take(5.125)]
    assert [True, True, False] == [room.take(60.0) for _ in range(3)]
