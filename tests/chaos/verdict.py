"""Which guarantees held, judged after the fact from the record, the ledger and what clients were told."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from tests.chaos.evidence import FINAL_EVENTS, Calls, RecordedRun
from tests.chaos.prober import Latency, quantile
from tests.chaos.watchers import Watcher

SHOWN: Final = 3
"""Examples of each broken guarantee that a verdict shows."""

GUARANTEES: Final[dict[str, str]] = {
    "accepted_but_unknown": "accepted but unknown",
    "committed_missing": "2xx without commit",
    "unfinished": "not finished in time",
    "finished_twice": "finished twice",
    "duplicate_checkpoints": "duplicate checkpoint",
    "repeated_calls": "repeated calls",
    "unexpected_failures": "unexpected failure",
    "stream_mismatches": "stream differs from the record",
    "late_answers": "late answer",
    "slow_recovery": "slow recovery",
}
"""Each guarantee and how a verdict names it when it is broken. A mutation test looks for these words."""


@dataclass(frozen=True, slots=True)
class Recovery:
    """Seconds from the end of a fault to the next progress of each run that it may have touched."""

    count: int
    p50_s: float
    p99_s: float
    bound_s: float

    @property
    def is_in_time(self) -> bool:
        """The published bound holds."""
        return self.p99_s < self.bound_s


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a cell's runs."""

    runs: int
    broken: Mapping[str, Sequence[str]]
    """Guarantee -> what broke it, one text for each case."""
    repeated_calls: int
    calls_in_flight: int
    recovery: Recovery
    latency: Mapping[str, Latency] = field(default_factory=dict)
    """Method -> latency of the API during the fault."""

    @property
    def is_good(self) -> bool:
        """Every guarantee held."""
        return not any(self.broken.values())

    def __str__(self) -> str:
        """One line for each broken guarantee, in fixed words, with a few examples."""
        recovery = self.recovery
        summary = (
            f"{self.runs} runs; repeated calls {self.repeated_calls} of {self.calls_in_flight} in flight; "
            f"recovery p50 {recovery.p50_s:.2f} s, p99 {recovery.p99_s:.2f} s of {recovery.bound_s:g} s"
        )
        lines = [
            f"BROKEN: {GUARANTEES[name]}: {len(cases)}: {'; '.join(cases[:SHOWN])}"
            for name, cases in self.broken.items()
            if cases
        ]
        return "\n".join([summary, *lines])


@dataclass(frozen=True, slots=True)
class Evidence:
    """All that a verdict is made from."""

    runs: Mapping[str, RecordedRun]
    told: Mapping[str, set[str]]
    """Idempotency key -> ids that a 2xx named for it."""
    never_accepted: Sequence[str]
    """Keys that the API did not accept, however often they were repeated."""
    calls: Sequence[Calls]
    calls_in_flight: int
    poison_keys: frozenset[str]
    """Keys of the runs that must fail as `crashed`."""
    max_crashes: int
    """After exactly so many crashes."""
    watchers: Sequence[Watcher]
    harmed_at: float
    """When the fault began, by the record's clock."""
    healed_at: float
    """When there was nothing left that hindered: the fault itself, if nothing has to be healed."""
    recovery_bound_s: float
    late_answers: Sequence[str] = ()
    latency: Mapping[str, Latency] = field(default_factory=dict)


def judge(evidence: Evidence) -> Verdict:
    """Hold the evidence against every guarantee."""
    runs = evidence.runs.values()
    repeated = count_repeated(evidence.calls)
    recovery = measure_recovery(evidence)
    broken = {
        "accepted_but_unknown": list(_unknown(evidence)),
        "committed_missing": list(_missing(evidence)),
        "unfinished": [
            *(f"{run.id} is {run.state}" for run in runs if not run.is_final),
            *(f"{key} is not accepted" for key in evidence.never_accepted),
        ],
        "finished_twice": [text for run in runs for text in _second_ends(run)],
        "duplicate_checkpoints": [text for run in runs for text in _second_checkpoints(run)],
        "repeated_calls": _repeats_beyond(evidence, repeated),
        "unexpected_failures": list(_unexpected(evidence)),
        "stream_mismatches": list(_mismatches(evidence)),
        "late_answers": list(evidence.late_answers),
        "slow_recovery": [] if recovery.is_in_time else [f"p99 {recovery.p99_s:.2f} s"],
    }
    return Verdict(
        len(evidence.runs),
        broken,
        repeated,
        evidence.calls_in_flight,
        recovery,
        evidence.latency,
    )


def count_repeated(calls: Iterable[Calls]) -> int:
    """Paid calls that were made although the same one had been answered, or was answered besides."""
    return sum(max(0, call.answered - 1) for call in calls)


def measure_recovery(evidence: Evidence) -> Recovery:
    """From the heal to the next progress event of each run that was accepted and had not ended by then."""
    waits = sorted(
        wait
        for run in evidence.runs.values()
        if run.created_at <= evidence.healed_at
        and (wait := _next_progress(run, evidence.healed_at)) is not None
    )
    return Recovery(
        len(waits), quantile(waits, 0.5), quantile(waits, 0.99), evidence.recovery_bound_s
    )


def _next_progress(run: RecordedRun, healed_at: float) -> float | None:
    if any(event.type in FINAL_EVENTS and event.at <= healed_at for event in run.events):
        return None
    later = (
        event.at for event in run.events if event.at > healed_at and event.type != "run.queued"
    )
    return next(later, float("inf")) - healed_at


def _unknown(evidence: Evidence) -> Iterable[str]:
    """Runs in the record that no client was told of, or told of under another id."""
    for run in evidence.runs.values():
        if run.id not in evidence.told.get(run.key, set()):
            yield f"{run.id} of {run.key}"


def _missing(evidence: Evidence) -> Iterable[str]:
    """Ids that a 2xx named and the record does not have."""
    for key, ids in evidence.told.items():
        for run_id in sorted(ids - set(evidence.runs)):
            yield f"{run_id} of {key}"


def _second_ends(run: RecordedRun) -> Iterable[str]:
    ends = _most_between_replays(run, lambda kind, _: "end" if kind in FINAL_EVENTS else None)
    if ends.get("end", 0) > 1:
        yield f"{run.id} has {ends['end']} final events"
    if run.is_final and not (run.events and run.events[-1].type == f"run.{run.state}"):
        yield f"{run.id} is {run.state}, but its last event says something else"
    if run.emails != (run.pipeline == "outreach_email" and run.state == "succeeded"):
        yield f"{run.id} is {run.state} and has {run.emails} emails"


def _second_checkpoints(run: RecordedRun) -> Iterable[str]:
    told = _most_between_replays(run, lambda kind, step: step if kind == "step.succeeded" else None)
    for step, count in told.items():
        if count > 1:
            yield f"{run.id}: {step} succeeded {count} times"
    numbers = [event.seq for event in run.events]
    if numbers != list(range(1, len(numbers) + 1)):
        yield f"{run.id}: its events are numbered {numbers}"


def _most_between_replays(
    run: RecordedRun, name_of: Callable[[str, str | None], str | None]
) -> Counter[str]:
    """How often something happened within one attempt, at most."""
    most: Counter[str] = Counter()
    current: Counter[str] = Counter()
    for event in run.events:
        if event.replay is not None:
            current.clear()
        if name := name_of(event.type, event.step):
            current[name] += 1
            most[name] = max(most[name], current[name])
    return most


def _repeats_beyond(evidence: Evidence, repeated: int) -> list[str]:
    if repeated <= evidence.calls_in_flight:
        return []
    examples = [call for call in evidence.calls if call.answered > 1]
    return [
        f"{repeated} although {evidence.calls_in_flight} were in flight",
        *(f"{call.run_id} {call.prompt[:8]} answered {call.answered} times" for call in examples),
    ]


def _unexpected(evidence: Evidence) -> Iterable[str]:
    for run in evidence.runs.values():
        if run.key in evidence.poison_keys:
            end = (run.state, run.reason, run.crashes)
            if run.is_final and end != ("failed", "crashed", evidence.max_crashes):
                yield f"{run.id} is poison, and {run.state} {run.reason or ''} with {run.crashes} crashes"
        elif run.is_final and run.state != "succeeded":
            yield f"{run.id} is {run.state}: {run.reason}"


def _mismatches(evidence: Evidence) -> Iterable[str]:
    for watcher in evidence.watchers:
        run = evidence.runs.get(watcher.run_id)
        if run is None or not run.is_final:
            continue  # told elsewhere
        recorded = [(event.seq, event.type) for event in run.events]
        if watcher.seen != recorded:
            yield f"{run.id}: saw {watcher.seen}, recorded {recorded}"
