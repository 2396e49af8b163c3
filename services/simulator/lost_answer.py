"""An answer that its client does not get, though what it asked for was done."""

import asyncio

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from services.simulator.delivery import JSON, ClientGoneError, send_body, send_head, unless_gone
from services.simulator.faults import Fault

BAD_GATEWAY_PAGE = b"<html><head><title>502 Bad Gateway</title></head><body>nginx</body></html>"
LOSING = {Fault.HANG, Fault.DROP, Fault.BAD_GATEWAY}


class LostAnswer(Response):
    """Hangs, is cut off, or is replaced by a proxy's error page."""

    def __init__(self, body: bytes, fault: Fault) -> None:
        """Prepare to lose an answer with this body, in this way, which is one of LOSING."""
        super().__init__()
        self._whole = body
        self._fault = fault

    async def __call__(
        self,
        scope: Scope,  # noqa: ARG002 - ASGI's signature
        receive: Receive,
        send: Send,
    ) -> None:
        """Send less than there is to say."""
        if self._fault is Fault.BAD_GATEWAY:
            await send_bad_gateway(send)
        elif self._fault is Fault.HANG:
            await _hang(receive)
        else:
            headers = {"content-length": str(len(self._whole))}
            await send_head(send, status=200, media_type=JSON, headers=headers)
            await send_body(send, self._whole[: len(self._whole) // 2], more=True)
            # Returning from an unfinished answer makes uvicorn close the connection.


async def send_bad_gateway(send: Send) -> None:
    """Send 502 with a page of HTML."""
    headers = {"content-length": str(len(BAD_GATEWAY_PAGE))}
    await send_head(send, status=502, media_type="text/html", headers=headers)
    await send_body(send, BAD_GATEWAY_PAGE)


async def _hang(receive: Receive) -> None:
    try:
        await unless_gone(_forever(), receive)
    except ClientGoneError:
        return


async def _forever() -> None:
    await asyncio.Event().wait()
