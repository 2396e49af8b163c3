"""No request body is larger than the settings allow, whatever its headers say."""

from collections.abc import Mapping

from starlette.exceptions import HTTPException
from starlette.types import Message, Receive


def limited(receive: Receive, headers: Mapping[bytes, bytes], *, max_body_bytes: int) -> Receive:
    """Fail the reading of a body with 413: at once if Content-Length says too much, else when too much has come in.

    FastAPI's own `max_body_size` counts as well, but answers in plain text.
    """
    announced = headers.get(b"content-length", b"")
    announced_bytes = int(announced) if announced.isdigit() else 0
    received_bytes = 0

    async def receive_limited() -> Message:
        nonlocal received_bytes
        if announced_bytes > max_body_bytes:
            raise _too_large(max_body_bytes)
        message = await receive()
        received_bytes += len(message.get("body", b""))
        if received_bytes > max_body_bytes:
            raise _too_large(max_body_bytes)
        return message

    return receive_limited


def _too_large(max_body_bytes: int) -> HTTPException:
    # The one kind of error that FastAPI lets through while it reads a body.
    return HTTPException(413, f"A body may have {max_body_bytes} bytes.")
