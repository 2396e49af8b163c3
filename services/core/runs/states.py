"""The states of a run and the transitions between them: a pure table."""

from enum import StrEnum


class RunState(StrEnum):
    """What a run is doing."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


class StepState(StrEnum):
    """What a step is doing."""

    PENDING = "pending"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"


class RunMode(StrEnum):
    """How a run asks Claude."""

    LIVE = "live"
    BATCH = "batch"
    """Through the Message Batches API: half the price, up to a day."""


class CallState(StrEnum):
    """What became of a call to Claude."""

    OPEN = "open"
    """Under way, or its process died: nobody knows."""
    WAITING = "waiting"
    """Not yet in a message batch."""
    SUBMITTED = "submitted"
    """In a message batch."""
    ANSWERED = "answered"
    FAILED = "failed"


class MessageBatchState(StrEnum):
    """What became of a message batch."""

    SUBMITTING = "submitting"
    """Being sent, or its process died: Claude may have it."""
    SUBMITTED = "submitted"
    ENDED = "ended"


class FailureReason(StrEnum):
    """Why a run failed."""

    PERMANENT = "permanent"
    RETRIES_EXHAUSTED = "retries_exhausted"
    CRASHED = "crashed"
    TIMED_OUT = "timed_out"
    BUDGET_EXCEEDED = "budget_exceeded"


class EventType(StrEnum):
    """What is told to those who watch a run."""

    RUN_QUEUED = "run.queued"
    RUN_STARTED = "run.started"
    STEP_STARTED = "step.started"
    CLAUDE_DELTA = "claude.delta"
    STEP_RETRYING = "step.retrying"
    STEP_WAITING = "step.waiting"
    STEP_SUCCEEDED = "step.succeeded"
    RUN_SUCCEEDED = "run.succeeded"
    RUN_FAILED = "run.failed"
    RUN_CANCELLED = "run.cancelled"


class Transition(StrEnum):
    """What can happen to a run."""

    CLAIM = "claim"
    CHECKPOINT = "checkpoint"
    RELEASE = "release"
    RETRY = "retry"
    PARK = "park"
    LAPSE = "lapse"
    CRASH_OUT = "crash_out"
    FINISH = "finish"
    FAIL = "fail"
    CANCEL = "cancel"
    EXPIRE = "expire"
    REPLAY = "replay"


NEXT_STATE: dict[tuple[RunState, Transition], RunState] = {
    (RunState.QUEUED, Transition.CLAIM): RunState.RUNNING,
    (RunState.QUEUED, Transition.CANCEL): RunState.CANCELLED,
    (RunState.QUEUED, Transition.EXPIRE): RunState.FAILED,
    (RunState.RUNNING, Transition.CHECKPOINT): RunState.RUNNING,
    (RunState.RUNNING, Transition.RELEASE): RunState.QUEUED,
    (RunState.RUNNING, Transition.RETRY): RunState.QUEUED,
    (RunState.RUNNING, Transition.PARK): RunState.QUEUED,
    (RunState.RUNNING, Transition.LAPSE): RunState.QUEUED,
    (RunState.RUNNING, Transition.CRASH_OUT): RunState.FAILED,
    (RunState.RUNNING, Transition.FINISH): RunState.SUCCEEDED,
    (RunState.RUNNING, Transition.FAIL): RunState.FAILED,
    (RunState.RUNNING, Transition.CANCEL): RunState.CANCELLED,
    (RunState.RUNNING, Transition.EXPIRE): RunState.FAILED,
    (RunState.FAILED, Transition.REPLAY): RunState.QUEUED,
    (RunState.CANCELLED, Transition.REPLAY): RunState.QUEUED,
}

FINAL_STATES = frozenset({RunState.SUCCEEDED, RunState.FAILED, RunState.CANCELLED})
FINAL_EVENTS = frozenset({EventType.RUN_SUCCEEDED, EventType.RUN_FAILED, EventType.RUN_CANCELLED})


def sources(transition: Transition) -> tuple[RunState, ...]:
    """The states in which the transition is allowed."""
    return tuple(state for state, name in NEXT_STATE if name is transition)


def target(transition: Transition) -> RunState:
    """The state that the transition leads to, the same from each of its sources."""
    return NEXT_STATE[sources(transition)[0], transition]
