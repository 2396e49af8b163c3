"""The API's documentation, with every asset served from here: it works without the internet. ADR 5."""

from importlib import resources
from pathlib import Path
from typing import Final

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import FileResponse, JSONResponse

from services.api.errors import NotFoundError

router = APIRouter(include_in_schema=False)

_OURS: Final = Path(__file__).parent.parent / "static"
# The package is used for its files only: Swagger UI 5, which reads OpenAPI 3.1.
_SWAGGER_UI: Final = Path(str(resources.files("fastapi_offline"))) / "static"
_ASSETS: Final = {
    "docs.js": (_OURS, "text/javascript"),
    "swagger-ui-bundle.js": (_SWAGGER_UI, "text/javascript"),
    "swagger-ui.css": (_SWAGGER_UI, "text/css"),
    "favicon.png": (_SWAGGER_UI, "image/png"),
}
_PAGE_HEADERS: Final = {
    # Swagger UI sets styles on its elements and draws icons from data: addresses.
    "Content-Security-Policy": (
        "default-src 'none'; connect-src 'self'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
        "img-src 'self' data:; frame-ancestors 'none'"
    ),
}
_ASSET_HEADERS: Final = {"Cache-Control": "public, max-age=86400"}


@router.get("/docs")
async def show_docs() -> FileResponse:
    """The page."""
    return FileResponse(_OURS / "docs.html", media_type="text/html", headers=_PAGE_HEADERS)


@router.get("/openapi.json")
async def get_document(request: Request) -> JSONResponse:
    """The OpenAPI document."""
    app: FastAPI = request.app
    return JSONResponse(app.openapi())


@router.get("/docs/{name}")
async def get_asset(name: str) -> FileResponse:
    """A script, style sheet or picture of the page."""
    if name not in _ASSETS:
        raise NotFoundError
    folder, media_type = _ASSETS[name]
    return FileResponse(folder / name, media_type=media_type, headers=_ASSET_HEADERS)
