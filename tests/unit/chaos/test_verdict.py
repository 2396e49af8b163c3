"""A verdict names every guarantee that the evidence breaks, and no other."""

from dataclasses import replace
from random import Random

import pytest

from tests.chaos.evidence import Calls, Event, RecordedRun, most_executed
from tests.chaos.verdict import GUARANTEES, Evidence, judge
from tests.chaos.watchers import Watcher

RUN_ID, KEY = "01a20930-b106-711f-9a3f-c354b2c2b750", "cell-0"
HEALED_AT = 100.0
DICE = Random(0)  # noqa: S311 - dice, not secrets


def events(*names: str, begin: float = 99.0) -> tuple[Event, ...]:
    """Events half a second apart; `step.succeeded:first` is one of a step, `run.queued#1` one of a replay."""
    found = []
    for number, name in enumerate(names, start=1):
        kind, _, step = name.partition(":")
        kind, _, replay = kind.partition("#")
        at = begin + number / 2
        found.append(Event(number, kind, at, step or None, int(replay) if replay else None))
    return tuple(found)


USUAL = ("run.queued", "run.started", "step.started:first", "step.succeeded:first", "run.succeeded")


def a_run(*names: str, **changes) -> RecordedRun:
    run = RecordedRun(
        id=RUN_ID,
        key=KEY,
        pipeline="drill",
        state="succeeded",
        reason=None,
        crashes=0,
        created_at=99.0,
        events=events(*(names or USUAL)),
        emails=0,
    )
    return replace(run, **changes)


def evidence(run: RecordedRun | None = None, **changes) -> Evidence:
    run = run or a_run()
    watcher = Watcher(None, RUN_ID, DICE, seen=[(event.seq, event.type) for event in run.events])
    found = Evidence(
        runs={run.id: run},
        told={KEY: {RUN_ID}},
        never_accepted=[],
        calls=[Calls(RUN_ID, "ab", 1, 1)],
        calls_in_flight=0,
        poison_keys=frozenset(),
        max_crashes=3,
        watchers=[watcher],
        harmed_at=99.5,
        healed_at=HEALED_AT,
        recovery_bound_s=10.0,
    )
    return replace(found, **changes)


REPLAYED = (*USUAL[:-1], "run.failed", "run.queued#1", *USUAL[1:])
POISON = a_run("run.queued", "run.failed", state="failed", reason="crashed", crashes=3)


@pytest.mark.parametrize(
    "good",
    [
        evidence(),
        evidence(a_run(*REPLAYED)),
        evidence(POISON, poison_keys=frozenset({KEY})),
        evidence(calls=[Calls(RUN_ID, "ab", 2, 2)], calls_in_flight=1),
        evidence(a_run(pipeline="outreach_email", emails=1)),
    ],
    ids=["usual", "replayed", "poison", "repeated within the bound", "one email"],
)
def test_judge_finds_nothing_wrong_with_what_is_right(good: Evidence) -> None:
    """An end, a replay, poison that was found and a call in flight break nothing."""
    verdict = judge(good)

    assert verdict.is_good, str(verdict)


BAD = {
    "accepted_but_unknown": evidence(
        told={KEY: {RUN_ID}, "cell-1": set()},
        runs={RUN_ID: a_run(), "other": a_run(id="other", key="cell-1")},
    ),
    "committed_missing": evidence(told={KEY: {RUN_ID}, "cell-1": {"gone"}}),
    "unfinished": evidence(a_run(*USUAL[:4], state="running")),
    "finished_twice": evidence(a_run(*USUAL, "run.succeeded")),
    "duplicate_checkpoints": evidence(a_run(*USUAL[:4], "step.succeeded:first", "run.succeeded")),
    "repeated_calls": evidence(calls=[Calls(RUN_ID, "ab", 2, 2)]),
    "unexpected_failures": evidence(
        a_run("run.queued", "run.failed", state="failed", reason="permanent")
    ),
    "stream_mismatches": evidence(watchers=[Watcher(None, RUN_ID, DICE, seen=[(1, "run.queued")])]),
    "late_answers": evidence(late_answers=["POST 202 after 3 s"]),
    "slow_recovery": evidence(recovery_bound_s=0.1),
}


@pytest.mark.parametrize("name", GUARANTEES)
def test_judge_names_the_guarantee_that_is_broken(name: str) -> None:
    """Each guarantee can be broken alone, and the verdict says which it is in its fixed words."""
    verdict = judge(BAD[name])

    assert {name} == {key for key, cases in verdict.broken.items() if cases}
    assert f"BROKEN: {GUARANTEES[name]}:" in str(verdict)


@pytest.mark.parametrize(
    ("name", "bad"),
    [
        ("unfinished", evidence(never_accepted=["cell-9"])),
        ("finished_twice", evidence(a_run(*USUAL[:4]))),
        ("finished_twice", evidence(a_run(emails=1))),
        ("finished_twice", evidence(a_run(pipeline="outreach_email"))),
        ("unexpected_failures", evidence(poison_keys=frozenset({KEY}))),
        ("unexpected_failures", evidence(replace(POISON, crashes=4), poison_keys=frozenset({KEY}))),
    ],
    ids=[
        "never accepted",
        "no final event",
        "email of nobody",
        "no email",
        "poison lives",
        "4 crashes",
    ],
)
def test_judge_sees_the_less_obvious(name: str, bad: Evidence) -> None:
    """What a run's state, events, emails and crashes say must agree."""
    assert {name} == {key for key, cases in judge(bad).broken.items() if cases}


def test_recovery_counts_from_the_heal_to_the_next_progress() -> None:
    """A run that ended before, or came after, has nothing to recover from."""
    verdict = judge(evidence())

    assert 1 == verdict.recovery.count
    assert pytest.approx(0.5) == verdict.recovery.p99_s


def test_most_executed_counts_steps_at_the_same_moment() -> None:
    """A step counts from its start to the run's next step; one without any counts on."""
    first = a_run()
    second = a_run("run.queued", "run.started", "step.started:first", state="running")

    assert 2 == most_executed([first, second], 100.0, 101.0)
    assert 1 == most_executed([first, second], 102.0, 103.0)
    assert 0 == most_executed([first, second], 90.0, 99.0)
