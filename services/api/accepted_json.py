"""A run as it is right after its acceptance, in the bytes that FastAPI would answer with, but without its models.

Of one pipeline's new runs only few members differ. The rest is written by the models once, as a frame for those.
"""

from datetime import UTC, datetime
from functools import cache
from typing import Final
from uuid import UUID

from pydantic_core import to_json

from services.api import schemas
from services.core.runs.acceptance import accepted_run
from services.core.runs.models import NewRun, Run

_VARYING: Final = (
    "id",
    "input",
    "metadata",
    "budget_usd",
    "mode",
    "created_at",
    "next_at",
    "trace_id",
)
"""In the order of the schema."""
_NOBODY: Final = UUID(int=0)
_NEVER: Final = datetime.fromtimestamp(0, UTC)


def accepted_json(run: Run) -> bytes:
    """The answer to the POST of a run, which is new and in no batch."""
    budget_usd = None if run.budget_usd is None else float(run.budget_usd)
    moment = to_json(run.created_at)
    return _frame(run.pipeline, tuple(step.name for step in run.steps)) % (
        to_json(run.id),
        to_json(run.input),
        to_json(run.metadata),
        to_json(budget_usd),
        to_json(run.mode),
        moment,
        moment,
        to_json(run.trace_id),
    )


@cache
def _frame(pipeline: str, step_names: tuple[str, ...]) -> bytes:
    """What new runs of a pipeline have in common, with a place for each member that varies."""
    new = NewRun(key_id=_NOBODY, pipeline=pipeline, input={}, step_names=step_names)
    sample = accepted_run(new, run_id=_NOBODY, created_at=_NEVER)
    members = schemas.Run.model_validate(sample).model_dump(mode="json")
    texts = (
        b'"%b":%b' % (name.encode(), b"%b" if name in _VARYING else _fixed(value))
        for name, value in members.items()
    )
    return b"{%b}" % b",".join(texts)


def _fixed(value: object) -> bytes:
    return to_json(value).replace(b"%", b"%%")
