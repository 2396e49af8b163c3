"""What a message from Redis may look like. Whoever reaches Redis can write there, so nothing is taken on trust."""

from base64 import b64decode
from typing import Annotated, Any, Literal
from uuid import UUID

from kombu.utils.json import loads
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from services.core.scrubbing import scrub

MAX_MESSAGE_BYTES = 262_144
"""Longest message of a queue; ours are below 2,000 bytes."""
MAX_BROADCAST_BYTES = 4_194_304
"""Longest message to all: remote control, and events, of which hundreds go in one message."""
EXCERPT_CHARACTERS = 100
"""Characters of a dropped message that a log line shows."""
PUT_BACKS = "penstock_put_backs"
"""Header: how often workers have put the message back because they did not know its task."""
UNREADABLE = (ValueError, TypeError, AttributeError, ArithmeticError, LookupError, RecursionError)
"""What kombu's JSON decoder raises; it makes dates, decimals and the like of marked values."""

Name = Annotated[str, Field(min_length=1, max_length=200)]
OptionalText = str | None


class GarbageError(ValueError):
    """This is no message of ours."""


class _Checked(BaseModel):
    """Wants the exact types, and leaves what it does not know as it is."""

    model_config = ConfigDict(extra="allow", strict=True)


class _Properties(_Checked):
    """What kombu notes on a message."""

    delivery_tag: Name
    body_encoding: Literal["base64", "utf-8"] | None = None
    correlation_id: OptionalText = None
    reply_to: OptionalText = None


class _Envelope(_Checked):
    """What kombu writes around a body. Compression would let a small message become a huge one."""

    body: str
    content_type: Literal["application/json"] = Field(alias="content-type")
    content_encoding: Literal["utf-8"] = Field(alias="content-encoding")
    headers: dict[str, Any]
    properties: _Properties


class TaskHeaders(BaseModel):
    """What is read of a task message's headers (Celery's protocol 2), and nothing else.

    Celery makes an attribute of its request of each header, so a stranger's `callbacks` would count.
    """

    model_config = ConfigDict(extra="ignore", strict=True)

    task: Name
    id: Name
    lang: OptionalText = None
    root_id: OptionalText = None
    parent_id: OptionalText = None
    shadow: OptionalText = None
    origin: OptionalText = None
    argsrepr: OptionalText = None
    kwargsrepr: OptionalText = None
    eta: OptionalText = None
    expires: OptionalText = None
    retries: int | None = Field(default=None, ge=0)
    timelimit: list[float | None] | None = Field(default=None, min_length=2, max_length=2)
    ignore_result: bool | None = None
    redelivered: bool | None = None
    traceparent: OptionalText = None
    tracestate: OptionalText = None
    baggage: OptionalText = None
    put_backs: int = Field(default=0, ge=0, alias=PUT_BACKS)

    def known(self) -> dict[str, Any]:
        """The headers that are read, as they came."""
        return self.model_dump(by_alias=True, exclude_unset=True)


class _Arguments(BaseModel):
    """Keyword arguments; a run is named by a UUID, and unknown ones are a newer version's."""

    model_config = ConfigDict(extra="allow")

    run_id: UUID | None = None


class _Workflow(_Checked):
    """What Celery would start next; ours start nothing, the record says what comes next."""

    callbacks: None = None
    errbacks: None = None
    chain: None = None
    chord: None = None


_TASK_BODY: TypeAdapter[tuple[list[Any], _Arguments, _Workflow]] = TypeAdapter(
    tuple[list[Any], _Arguments, _Workflow]
)


def read_envelope(raw: bytes, *, max_bytes: int = MAX_MESSAGE_BYTES) -> dict[str, Any]:
    """The message in one item of a queue.

    Raises:
        GarbageError: It is none; says why.
    """
    if len(raw) > max_bytes:
        raise GarbageError(f"longer than {max_bytes:,} bytes")
    try:
        envelope: Any = loads(raw)
    except UNREADABLE as error:
        raise GarbageError("not JSON") from error
    check_envelope(envelope)
    return dict(envelope)


def check_envelope(envelope: object) -> None:
    """Refuse what is no message.

    Raises:
        GarbageError: It is none; says why.
    """
    try:
        checked = _Envelope.model_validate(envelope)
        _decode(checked.body, checked.properties.body_encoding)
    except ValidationError as error:
        raise GarbageError(_told(error)) from error
    except ValueError as error:
        raise GarbageError("body: not text in base64") from error
    if checked.headers.get("compression"):
        raise GarbageError("headers: compressed")


def check_body(envelope: dict[str, Any]) -> None:
    """Refuse a message whose body is not JSON: kombu would log all of it.

    Raises:
        GarbageError: It is not.
    """
    try:
        loads(_decode(envelope["body"], envelope["properties"].get("body_encoding")))
    except UNREADABLE as error:
        raise GarbageError("body: not JSON") from error


def _decode(body: str, encoding: str | None) -> str:
    return b64decode(body).decode() if encoding == "base64" else body


def check_task(headers: object, body: object) -> TaskHeaders:
    """What the headers of a task message say.

    Raises:
        GarbageError: It is no task, or one with arguments that no task of ours takes; says why.
    """
    try:
        checked = TaskHeaders.model_validate(headers)
        _TASK_BODY.validate_python(tuple(body) if isinstance(body, list) else body)
    except ValidationError as error:
        raise GarbageError(_told(error)) from error
    if checked.task.startswith("celery."):
        # Celery's own tasks run other tasks.
        raise GarbageError("a task of Celery's own")
    return checked


def excerpt(raw: bytes | str) -> str:
    """The beginning of a dropped message, without secrets, for a log line."""
    text = raw.decode(errors="replace") if isinstance(raw, bytes) else raw
    # A secret that the cut would halve has to be whole to be recognised.
    return scrub(text[: 10 * EXCERPT_CHARACTERS])[:EXCERPT_CHARACTERS]


def _told(error: ValidationError) -> str:
    """The first thing that is wrong, without the values: they may be long or secret."""
    first = error.errors(include_input=False, include_url=False, include_context=False)[0]
    place = ".".join(str(part) for part in first["loc"])[:EXCERPT_CHARACTERS]
    return f"{place}: {first['msg']}" if place else str(first["msg"])
