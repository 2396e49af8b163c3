"""What FastAPI costs by itself: one model, one POST, nothing behind it. The measure of how fast an API can be here."""

import logging

from fastapi import FastAPI
from pydantic import BaseModel


class Posted(BaseModel):
    """The same body as of a run of `bench_noop`."""

    pipeline: str
    input: dict[str, str | int]
    metadata: dict[str, str] = {}


def create_app() -> FastAPI:
    """The app, without uvicorn's log of requests: Penstock does without it too."""
    logging.getLogger("uvicorn.access").disabled = True
    app = FastAPI(openapi_url=None)

    @app.post("/v1/runs", status_code=202)
    async def accept(posted: Posted) -> Posted:
        return posted

    return app
