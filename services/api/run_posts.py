"""What becomes of the POST of a run, whichever way it came."""

import hashlib
import json
from typing import Annotated, Any, Final
from uuid import UUID

from pydantic import Field, StringConstraints, TypeAdapter
from pydantic_core import from_json

from services.api.accepted_json import accepted_json
from services.api.admission import check_input, find_pipeline, require_claude
from services.api.dependencies import Dependencies
from services.api.schemas import CreateRun, Run
from services.core import telemetry
from services.core.errors import PenstockError
from services.core.runs import models
from services.core.runs.states import RunMode

PATH: Final = "/v1/runs"
KEY_FORM: Final[dict[str, Any]] = {
    "min_length": 1,
    "max_length": 255,
    "pattern": r"^[!-~]+$",
}
"""Of an idempotency key."""
_KEYS: Final = TypeAdapter(
    Annotated[list[Annotated[str, StringConstraints(**KEY_FORM)]], Field(max_length=1)]
)


def new_run(
    deps: Dependencies, key_id: UUID, body: CreateRun, idempotency_key: str | None
) -> models.NewRun:
    """The run that a body asks for.

    Raises:
        UnknownPipelineError: There is no such pipeline.
        InvalidRequestError: The input does not fit it.
        ClaudeNotConfiguredError: Nobody could execute it.
    """
    pipeline = find_pipeline(deps, body.pipeline)
    check_input(pipeline, body.input)
    require_claude(deps)
    return models.NewRun(
        key_id=key_id,
        pipeline=pipeline.name,
        input=body.input,
        step_names=pipeline.step_names,
        metadata=body.metadata,
        priority=body.priority,
        budget_usd=body.budget_usd,
        idempotency_key=idempotency_key,
        request_hash=_hash_of(body) if idempotency_key else None,
        mode=body.mode,
        traceparent=telemetry.current_traceparent(),
    )


def read_plain_run(
    deps: Dependencies, key_id: UUID, body: bytes, idempotency_keys: list[str]
) -> models.NewRun | None:
    """The run that a body asks for, if it is plainly right; what is wrong with another is for FastAPI's way to tell."""
    try:
        keys = idempotency_keys and _KEYS.validate_python(idempotency_keys)
        wanted = CreateRun.model_validate(from_json(body))
        return new_run(deps, key_id, wanted, keys[0] if keys else None)
    except (ValueError, RecursionError, PenstockError):
        return None


async def accept(deps: Dependencies, new: models.NewRun) -> tuple[str, bytes]:
    """Commit a run, or find the one that the same request made; its path, and the run as clients see it, in JSON.

    Raises as RunStore.accept does.
    """
    accepted = await deps.store.accept(new)
    run_id = str(accepted.run_id)
    telemetry.annotate(run_id=run_id)
    if accepted.created_at is None:
        run = await deps.store.get_run(new.key_id, accepted.run_id)
        content = Run.model_validate(run).model_dump_json().encode()
    else:
        deps.publisher.hint(accepted.run_id)
        content = accepted_json(new, run_id=run_id, created_at=accepted.created_at)
    return f"{PATH}/{run_id}", content


def _hash_of(body: CreateRun) -> bytes:
    """SHA-256 of the request, whatever the order of its members and its white space."""
    # What was posted before there were modes has the same hash when it is posted again.
    left_out = {"mode"} if body.mode is RunMode.LIVE else set()
    members = body.model_dump(mode="json", exclude=left_out)
    canonical = json.dumps(members, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).digest()
