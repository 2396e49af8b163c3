"""The quick answer to an accepted run is FastAPI's, byte for byte."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest

from services.api import schemas
from services.api.accepted_json import accepted_json
from services.core.runs.acceptance import accepted_run
from services.core.runs.models import NewRun
from services.core.runs.states import RunMode

TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.mark.parametrize(
    "members",
    [
        {},
        {"input": {"text": 'ä € 🎉 "\\ \x1f\u2028', "deep": [1, 2.5, 1e300, {"a": None}]}},
        {"metadata": {"order": "1742", "share": "5 %b", "n": 10**30, "is_x": True}},
        {"budget_usd": Decimal("0.000001"), "mode": RunMode.BATCH},
        {"budget_usd": Decimal(100_000), "traceparent": TRACEPARENT, "priority": 7},
        {"pipeline": "100%", "step_names": ("a", "b%s", "c")},
    ],
)
@pytest.mark.parametrize("microsecond", [0, 500_000, 123_456])
def test_it_is_what_the_model_says(members: dict[str, Any], microsecond: int) -> None:
    """Whatever of a run may differ from others of its pipeline."""
    common: dict[str, Any] = {
        "key_id": uuid4(),
        "pipeline": "letter",
        "input": {},
        "step_names": ("write",),
    }
    created_at = datetime(2026, 11, 30, 12, 0, 1, microsecond, UTC)
    new, run_id = NewRun(**common | members), uuid4()
    run = accepted_run(new, run_id=run_id, created_at=created_at)

    expected = schemas.Run.model_validate(run).model_dump_json().encode()
    assert expected == accepted_json(new, run_id=str(run_id), created_at=created_at)
