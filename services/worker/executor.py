"""Executes a run under a lease: from the first step without a checkpoint, step by step."""

import logging
import math
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from random import random
from typing import Any, TypeVar

from services.core import telemetry
from services.core.claude.protocol import Claude
from services.core.clock import monotonic_s
from services.core.errors import CallParkedError, LeaseLostError, PenstockError
from services.core.runs.models import Checkpoint, Failure, Forgotten, Json, Lease, NewEmail
from services.core.runs.states import FailureReason
from services.core.runs.store import RunStore
from services.pipelines.definition import EmailDraft, Pipeline, Step, StepContext, Web
from services.worker.admission import Admits
from services.worker.bounds import TookTooLongError, run_within
from services.worker.call_book import CallBook
from services.worker.endings import Cleared, Ending, Failed, Parked, PutBack, Retrying, Succeeded
from services.worker.live_text import TextSender, TryText
from services.worker.patience import until_store_answers
from services.worker.recorded_claude import RecordedClaude
from services.worker.retry import GiveUp, RetryPolicy, decide

logger = logging.getLogger(__name__)
Result = TypeVar("Result")

_Stopped = Retrying | Parked | Failed
"""What follows if a step gives no output."""
UNKNOWN_DELAY_S = 5.0
"""Seconds until a run that this worker does not know is due again, for one that does."""


@dataclass(frozen=True, slots=True)
class Outside:
    """What steps reach of the world."""

    claude: Claude
    web: Web
    arxiv_url: str


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds that work may take before the run fails with reason `timed_out`."""

    step_s: float
    """For one try of a step."""
    run_s: float
    """For a run, from its first claim; what is left of it is in the lease."""


@dataclass(frozen=True, slots=True)
class _Try:
    """One try of one step."""

    lease: Lease
    run_ends_at_s: float
    """When the run's time is over, on the monotonic clock."""
    step: Step
    attempt: int
    """Its number; counts tries that ended with a crash or a give-back, too."""
    claude: RecordedClaude
    book: CallBook
    text: TryText

    @property
    def failures(self) -> int:
        """How many tries of the step have failed, if this one does: only these are bounded."""
        return self.lease.step_attempts.get(self.step.name, 0) + 1

    def __str__(self) -> str:
        """What the log calls it."""
        return f"step {self.step.name} of run {self.lease.run_id}"


class RunExecutor:
    """Executes runs; holds nothing of any of them."""

    def __init__(  # noqa: PLR0913 - parts, each by name
        self,
        store: RunStore,
        outside: Outside,
        *,
        texts: TextSender,
        admits: Admits[Any],
        pipelines: Mapping[str, Pipeline[Any]],
        retry_policy: RetryPolicy,
        limits: Limits,
    ) -> None:
        self._store = store
        self._outside = outside
        self._texts = texts
        self._admits = admits
        self._pipelines = pipelines
        self._retry_policy = retry_policy
        self._limits = limits

    async def execute(self, lease: Lease) -> Ending:
        """Execute the steps that have no checkpoint yet.

        Raises:
            LeaseLostError: Another worker has taken the run, or it was cancelled.
        """
        with telemetry.span(
            "run",
            traceparent=lease.traceparent,
            run_id=lease.run_id,
            pipeline=lease.pipeline,
            fence=lease.fence,
        ):
            ending = await self._run(lease)
            telemetry.annotate(ending=type(ending).__name__)
            # A run that went well has told so in the record; thousands of lines a second help nobody.
            level = logging.DEBUG if isinstance(ending, Succeeded) else logging.INFO
            logger.log(level, "run %s: %s", lease.run_id, type(ending).__name__)
            return ending

    async def record(self, lease: Lease, ending: Ending) -> None:
        """Write the ending, as soon as PostgreSQL takes it.

        Raises:
            LeaseLostError: The fence refuses it.
        """
        store = self._store
        match ending:
            case Succeeded(output, email, last_step):
                write = partial(store.finish_run, lease, output, email, step=last_step)
            case Retrying(step, error, delay_s, is_counted, forgotten):
                write = partial(
                    store.retry_run,
                    lease,
                    step=step,
                    error=error,
                    delay_s=delay_s,
                    is_counted=is_counted,
                    forgotten=forgotten,
                )
            case Parked(step, wait_s, reason):
                write = partial(store.park_run, lease, step=step, wait_s=wait_s, reason=reason)
            case Failed(failure, forgotten):
                write = partial(store.fail_run, lease, failure, forgotten=forgotten)
            case PutBack():
                write = partial(store.release_run, lease, delay_s=UNKNOWN_DELAY_S)
            case Cleared():
                write = partial(store.release_run, lease, is_cleared=True)
        await until_store_answers(write)

    async def _run(self, lease: Lease) -> Ending:
        pipeline = self._pipelines.get(lease.pipeline)
        if pipeline is None or lease.step_attempts.keys() != set(pipeline.step_names):
            return PutBack("This worker knows no such pipeline with the steps of this run.")
        run_ends_at_s = monotonic_s() + lease.remaining_s
        value, attempt = lease.input, lease.started_attempt
        for step, following in zip(pipeline.steps, (*pipeline.steps[1:], None), strict=True):
            if step.name in lease.checkpoints:
                value = lease.checkpoints[step.name]
                continue
            with telemetry.span(step.name, run_id=lease.run_id, step=step.name):
                if attempt is None:
                    start = partial(self._store.start_step, lease, step.name)
                    attempt = await until_store_answers(start)
                current = self._new_try(lease, step, attempt, run_ends_at_s)
                outcome = await self._try_step(current, value)
            if isinstance(outcome, _Stopped):
                return outcome
            if following is None:
                return await self._finish(current, pipeline, outcome)
            value = outcome
            attempt = await self._go_on(lease, Checkpoint(step.name, value), following)
            if lease.is_on_probation:
                return Cleared()
        last = self._new_try(lease, pipeline.steps[-1], 1, run_ends_at_s)
        return await self._end(last, pipeline, value)

    async def _finish(self, last: _Try, pipeline: Pipeline[Any], output: Json) -> Ending:
        """What follows from the last step's output, which is not recorded yet."""
        ending = await self._end(last, pipeline, output, last_step=last.step.name)
        if isinstance(ending, Succeeded):
            return ending
        checkpoint = Checkpoint(last.step.name, output)
        await until_store_answers(partial(self._store.record_checkpoint, last.lease, checkpoint))
        return ending

    async def _end(
        self, last: _Try, pipeline: Pipeline[Any], output: Json, *, last_step: str | None = None
    ) -> Ending:
        """What follows from the run's output."""
        if pipeline.email_of is None:
            return Succeeded(output, None, last_step)
        ending = await self._within_bounds(
            replace(last, run_ends_at_s=math.inf),  # all is done and paid for
            partial(_succeed, pipeline, pipeline.email_of, output, last_step),
        )
        if isinstance(ending, Retrying):
            # What makes the email is pure: it would fail in the same way for ever.
            return _fail(last, FailureReason.PERMANENT, ending.error)
        return ending

    async def _go_on(self, lease: Lease, checkpoint: Checkpoint, following: Step) -> int | None:
        """Record a checkpoint and start the step that follows, if it is to follow here."""
        is_next = not lease.is_on_probation and following.name not in lease.checkpoints
        write = partial(
            self._store.record_checkpoint,
            lease,
            checkpoint,
            next_step=following.name if is_next else None,
        )
        return await until_store_answers(write)

    async def _try_step(self, current: _Try, value: Json) -> Json | _Stopped:
        """Try a step once: its output as JSON, or what follows."""
        try:
            output = await self._within_bounds(current, partial(self._call, current, value))
            await current.text.flush()  # so that it comes before what follows in the record
        finally:
            current.text.close()
        if telemetry.is_recording():  # taking the usage apart costs more than the rest of this
            book = current.book
            telemetry.annotate(
                attempt=current.attempt, cost_usd=book.cost_usd, **asdict(book.usage)
            )
        return output

    def _new_try(self, lease: Lease, step: Step, attempt: int, run_ends_at_s: float) -> _Try:
        text = self._texts.open(lease.run_id, fence=lease.fence, step=step.name, attempt=attempt)
        book = CallBook(self._store, lease, step.name)
        claude = RecordedClaude(
            self._outside.claude,
            self._admits,
            book,
            new_text=text.new_call,
            trace_key=str(lease.run_id),
            mode=lease.mode,
        )
        return _Try(lease, run_ends_at_s, step, attempt, claude, book, text)

    async def _call(self, current: _Try, value: Json) -> Json:
        """Call the step's function; its output as JSON."""
        step = current.step
        context = StepContext(
            run_id=current.lease.run_id,
            step=step.name,
            attempt=current.attempt,
            claude=current.claude,
            web=self._outside.web,
            arxiv_url=self._outside.arxiv_url,
        )
        output = await step.function(step.input_type.model_validate(value), context)
        return output.model_dump(mode="json")

    async def _within_bounds(
        self, current: _Try, call: Callable[[], Awaitable[Result]]
    ) -> Result | _Stopped:
        """What the call gives, or what follows from its error or from taking too long."""
        step_s, run_s = self._limits.step_s, current.run_ends_at_s - monotonic_s()
        try:
            return await run_within(min(step_s, run_s), call, what=current)
        except LeaseLostError:
            raise
        except CallParkedError as parked:
            return Parked(current.step.name, parked.wait_s, parked.reason)
        except TookTooLongError:
            longest = f"step took longer than {step_s:g} s"
            if run_s < step_s:
                longest = "run did not end before its deadline"
            return _fail(current, FailureReason.TIMED_OUT, f"The {longest}.")
        except Exception as error:  # noqa: BLE001 - steps are anyone's code; retry.py decides
            return self._follow(current, error)

    def _follow(self, current: _Try, error: Exception) -> Retrying | Failed:
        """What the table says about an error."""
        decision = decide(
            error,
            attempt=current.failures,
            started=current.attempt,
            policy=self._retry_policy,
            random=random,
        )
        message = _message_of(error)
        # A known error says all in its message; of an unknown one the log keeps where it arose.
        trace = None if isinstance(error, PenstockError) else error
        logger.warning("step %s failed: %s", current.step.name, message, exc_info=trace)
        forgotten = current.claude.forgotten_after(error)
        if isinstance(decision, GiveUp):
            return _fail(current, decision.reason, message, forgotten)
        return Retrying(
            current.step.name, message, decision.delay_s, decision.is_counted, forgotten
        )


async def _succeed(
    pipeline: Pipeline[Any],
    email_of: Callable[[Any], EmailDraft],
    output: Json,
    last_step: str | None,
) -> Succeeded:
    """The run's output and the email that it stands for."""
    draft = email_of(pipeline.output_type.model_validate(output))
    email = NewEmail(
        id=draft.id,
        template_type=draft.template_type,
        subject=draft.subject,
        body=draft.body,
        metadata=draft.metadata,
    )
    return Succeeded(output, email, last_step)


def _fail(current: _Try, reason: FailureReason, message: str, forgotten: Forgotten = ()) -> Failed:
    failure = Failure(reason, current.step.name, message, current.attempt)
    return Failed(failure, forgotten)


def _message_of(error: Exception) -> str:
    """What clients may read of an error: an unknown one can hold anything, so only its kind."""
    return str(error) if isinstance(error, PenstockError) else f"Unexpected {type(error).__name__}."
