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
from services.core.runs.models import NewRun
from services.core.runs.reading import trace_id_of
from services.core.runs.states import RunMode

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
_MODES: Final = {mode: to_json(mode) for mode in RunMode}
_NOBODY: Final = UUID(int=0)
_NEVER: Final = datetime.fromtimestamp(0, UTC)


def accepted_json(new: NewRun, *, run_id: str, created_at: datetime) -> bytes:
    """The answer to the POST of a run, which is new and in no batch."""
    budget_usd = None if new.budget_usd is None else float(new.budget_usd)
    moment = to_json(created_at)
    return _frame(new.pipeline, new.step_names) % (
        to_json(run_id),
        to_json(new.input),
        to_json(new.metadata),
        to_json(budget_usd),
        _MODES[new.mode],
        moment,
        moment,
        to_json(trace_id_of(new.traceparent)),
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
