"""The request that posts a batch: what its runs have in common, and its rows."""

import asyncio
import hashlib
from typing import Final

from fastapi import Request

from services.api.admission import find_pipeline
from services.api.auth import JSON, media_type_of
from services.api.batch_csv import read_csv
from services.api.batch_json import MalformedJsonError, TooManyItemsError, scan_document
from services.api.batch_rows import (
    MAX_ROW_BYTES,
    MAX_ROWS,
    Rows,
    read_ndjson,
    read_spans,
    too_many_rows,
)
from services.api.batch_schemas import (
    BatchMembers,
    BatchQuery,
    members_of_body,
    members_of_query,
)
from services.api.dependencies import Dependencies
from services.api.errors import InvalidRequestError
from services.api.input_fields import InputFields
from services.api.validation import FieldError

NDJSON: Final = "application/x-ndjson"
CSV: Final = "text/csv"
MEDIA_TYPES: Final = (JSON, NDJSON, CSV)
LIST_NAME: Final = "inputs"


async def hash_request(request: Request) -> bytes:
    """SHA-256 of the request as it was sent: to put ten thousand rows in order would take longer than to run them."""
    parts = (media_type_of(request).encode(), request.url.query.encode(), await request.body())
    return await asyncio.to_thread(lambda: hashlib.sha256(b"\0".join(parts)).digest())


async def read_batch(
    request: Request, query: BatchQuery, deps: Dependencies
) -> tuple[BatchMembers, Rows]:
    """What the runs have in common, and their rows, which are read one by one later.

    Raises:
        InvalidRequestError: The request is not as documented.
        UnknownPipelineError: There is no such pipeline.
    """
    body, media_type = await request.body(), media_type_of(request)
    if media_type not in (NDJSON, CSV):
        return await _read_json(body, query)
    if query.columns and media_type != CSV:
        raise InvalidRequestError([FieldError("query", "/columns", "Only CSV has columns")])
    members = members_of_query(query)
    if media_type == NDJSON:
        return members, read_ndjson(body)
    schema = find_pipeline(deps, members.pipeline).input_type.model_json_schema()
    return members, read_csv(body, query.columns, InputFields(schema))


async def _read_json(body: bytes, query: BatchQuery) -> tuple[BatchMembers, Rows]:
    if named := query.model_fields_set:
        message = "Say it in the body, which is JSON"
        raise InvalidRequestError([FieldError("query", f"/{name}", message) for name in named])
    try:
        text = body.decode("utf-8-sig")
        document = await scan_document(
            text, LIST_NAME, max_items=MAX_ROWS, max_value_chars=MAX_ROW_BYTES
        )
    except TooManyItemsError as error:
        raise too_many_rows() from error
    except (MalformedJsonError, UnicodeDecodeError) as error:
        message = (
            f"This is no JSON object, or a value in it is longer than {MAX_ROW_BYTES:,} characters"
        )
        raise InvalidRequestError([FieldError("body", "", message)]) from error
    if document.spans is None:
        message = "A list of inputs is required"
        raise InvalidRequestError([FieldError("body", f"/{LIST_NAME}", message)])
    return members_of_body(document.members), read_spans(text, document.spans)
