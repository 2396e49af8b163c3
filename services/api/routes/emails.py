"""Emails that runs wrote."""

import json
from typing import Annotated, Any, Self
from uuid import UUID

from fastapi import APIRouter, Query
from pydantic import ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from services.api.auth import BEARER, Caller, KeyedRoute
from services.api.dependencies import Store
from services.api.errors import NOT_FOUND
from services.api.json_values import Json, check_storable
from services.api.openapi import KEYED_PROBLEMS, problems
from services.api.pages import Name, PageQuery, known_cursor
from services.api.schemas import Email, EmailPage
from services.core.runs import models

METADATA_PREFIX = "metadata."

router = APIRouter(tags=["emails"], route_class=KeyedRoute, dependencies=[BEARER])


class EmailQuery(PageQuery):
    """Which emails to list."""

    model_config = ConfigDict(extra="allow")

    template_type: Name | None = Field(default=None, examples=["general"])
    run_id: UUID | None = None

    @property
    def metadata(self) -> Json:
        """What the parameters `metadata.KEY=VALUE` ask for."""
        extra = self.model_extra or {}
        return {
            name.removeprefix(METADATA_PREFIX): _scalar_of(text) for name, text in extra.items()
        }

    @model_validator(mode="after")
    def _allow_metadata_only(self) -> Self:
        for name, text in (self.model_extra or {}).items():
            if not name.startswith(METADATA_PREFIX) or not isinstance(text, str):
                code, message = "unknown_parameter", "Unknown parameter, or one given twice: {name}"
                raise PydanticCustomError(code, message, {"name": name})
        check_storable(self.metadata)
        return self


_METADATA_PARAMETER = {
    "parameters": [
        {
            "name": "metadata",
            "in": "query",
            "style": "form",
            "explode": True,
            "description": (
                "Only emails whose metadata has these values, as `metadata.KEY=VALUE`; more than one must all match. "
                'A value that is a JSON scalar means that (`true`, `3`, `"3"`), anything else is text.'
            ),
            "schema": {"type": "object", "additionalProperties": {"type": "string"}},
            "example": {"metadata.simulated": "true"},
        }
    ]
}


@router.get(
    "/v1/emails",
    operation_id="listEmails",
    response_model=EmailPage,
    responses=KEYED_PROBLEMS,
    openapi_extra=_METADATA_PARAMETER,
)
async def list_emails(
    query: Annotated[EmailQuery, Query()], caller: Caller, store: Store
) -> models.Page[models.Email]:
    """List the emails of this key's runs, newest first."""
    with known_cursor():
        return await store.list_emails(
            caller.id,
            template_type=query.template_type,
            run_id=query.run_id,
            metadata=query.metadata or None,
            cursor=query.cursor,
            limit=query.limit,
        )


@router.get(
    "/v1/emails/{email_id}",
    operation_id="getEmail",
    response_model=Email,
    responses=KEYED_PROBLEMS | problems(NOT_FOUND),
)
async def get_email(email_id: UUID, caller: Caller, store: Store) -> models.Email:
    """Show one email."""
    return await store.get_email(caller.id, email_id)


def _scalar_of(text: str) -> Any:
    if text[:1] in ("[", "{"):
        return text
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except ValueError:
        return text


def _refuse_constant(name: str) -> Any:
    raise ValueError(name)  # Python's NaN and Infinity are no JSON, so they are text.
