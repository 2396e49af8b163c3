"""The documentation page works without the internet."""

import re

import httpx


async def test_every_asset_is_served_from_here(stranger: httpx.AsyncClient) -> None:
    """The page names no other host, and each asset is there with its type."""
    page = await stranger.get("/docs")
    assets = re.findall(r'(?:src|href)="([^"]+)"', page.text)

    assert page.headers["content-type"].startswith("text/html")
    assert "//" not in re.sub(r"<!--.*?-->", "", page.text)
    assert len(assets) == 4
    for asset in assets:
        answer = await stranger.get(asset)
        assert answer.status_code == 200
        assert answer.content
        assert "max-age" in answer.headers["cache-control"]
        assert answer.headers["x-content-type-options"] == "nosniff"


async def test_the_page_runs_no_inline_script_and_calls_nobody_else(
    stranger: httpx.AsyncClient,
) -> None:
    """What an API's answers say can never become a script there."""
    page = await stranger.get("/docs")
    policy = page.headers["content-security-policy"]

    assert "script-src 'self';" in policy
    assert "connect-src 'self';" in policy
    assert "default-src 'none'" in policy
    assert not re.search(r"<script>", page.text)


async def test_the_viewer_reads_openapi_3_1(stranger: httpx.AsyncClient) -> None:
    """Swagger UI does from version 5 on."""
    script = (await stranger.get("/docs/swagger-ui-bundle.js")).text

    assert re.search(r'"5\.\d+\.\d+"', script)


async def test_other_files_are_not_served(stranger: httpx.AsyncClient) -> None:
    """Only what the page needs."""
    for name in ("docs.html", "__init__.py", "redoc.standalone.js", "..%2f..%2fapp.py"):
        assert (await stranger.get(f"/docs/{name}")).status_code == 404
