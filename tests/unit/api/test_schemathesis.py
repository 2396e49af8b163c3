"""The app against its own document: requests made from its schemas, answers held to them."""

import asyncio
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.python.asgi import shutdown_lifespans
from schemathesis.schemas import APIOperation
from schemathesis.specs.openapi import checks
from schemathesis.specs.openapi.schemas import OpenApiSchema

from services.api.app import create_app
from services.api.dependencies import Dependencies
from services.core.runs.models import NewRun
from services.core.runs.states import EventType
from tests.fakes.run_store import InMemoryRunStore
from tests.unit.api.conftest import add_key

CHECKS = [
    not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
    checks.unsupported_method,
    checks.allow_header_conformance,
    checks.ignored_auth,
]


async def _fill(store: InMemoryRunStore) -> tuple[str, dict[str, str]]:
    """A key, and the ids of a run that was replayed and finished, and of its email."""
    key = await add_key(store)
    (stored,) = store.keys.values()
    run, _ = await store.accept_run(NewRun(stored.id, "letter", {"name": "a"}, ("write_letter",)))
    store.append_event(run.id, EventType.RUN_FAILED)
    await store.replay_run(
        stored.id, run.id, step_names=("write_letter",), from_step=None, input=None
    )
    store.append_event(run.id, EventType.RUN_SUCCEEDED)
    email = store.add_email(run.id, simulated=True)
    return key, {"run_id": str(run.id), "email_id": str(email.id), "name": "letter"}


def _use_known(known: dict[str, str], parameters: dict[str, Any] | None) -> dict[str, Any] | None:
    """Ids that exist in the place of ids that would; malformed ones stay."""
    for name, value in (parameters or {}).items():
        try:
            UUID(str(value))
        except ValueError:
            continue
        parameters = {**(parameters or {}), name: known[name]}
    return parameters


@pytest.fixture
def api(dependencies: Dependencies, store: InMemoryRunStore) -> Iterator[OpenApiSchema]:
    """The app's document, with a key for its requests."""
    key, known = asyncio.run(_fill(store))
    schema = schemathesis.openapi.from_asgi("/openapi.json", create_app(dependencies))

    @schema.auth()
    class Key:
        def get(self, _case: Case, _context: Any) -> str:
            return key

        def set(self, case: Case, data: str, _context: Any) -> None:
            case.headers["Authorization"] = f"Bearer {data}"

    @schema.hook
    def map_path_parameters(_: Any, path_parameters: dict[str, Any] | None) -> Any:
        return _use_known(known, path_parameters)

    yield schema
    shutdown_lifespans()


def test_answers_are_as_documented(api: OpenApiSchema) -> None:
    """Whatever is sent to any operation, the answer is a documented one, and never a 5xx."""
    operations = [result.ok() for result in api.get_all_operations()]
    for operation in operations:
        _attack(operation)

    assert len(operations) == 18


def _attack(operation: APIOperation) -> None:
    """Send good and bad requests to one operation."""
    strategy = st.one_of(
        operation.as_strategy(generation_mode=mode)
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)
    )

    @settings(
        max_examples=40,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=strategy)
    def call(case: Case) -> None:
        case.call_and_validate(checks=CHECKS)

    call()
