"""Emails that runs wrote."""

import httpx
import pytest

from tests.fakes.run_store import InMemoryRunStore
from tests.unit.api.conftest import post_run
from tests.unit.api.test_errors import assert_problem


async def test_an_email_is_shown_to_its_owner_only(
    client: httpx.AsyncClient, other_client: httpx.AsyncClient, store: InMemoryRunStore
) -> None:
    """It belongs to the key that posted the run."""
    email = store.add_email(await post_run(client), simulated=True)

    mine = await client.get(f"/v1/emails/{email.id}")
    theirs = await other_client.get(f"/v1/emails/{email.id}")

    assert mine.status_code == 200
    assert set(mine.json()) == {
        "id", "run_id", "template_type", "subject", "body", "metadata", "created_at",
    }  # fmt: skip
    assert mine.json()["run_id"] == str(email.run_id)
    assert_problem(theirs, 404, "not-found")
    assert (await other_client.get("/v1/emails")).json()["items"] == []


@pytest.mark.parametrize(
    ("query", "matches"),
    [
        ("", True),
        ("template_type=general", True),
        ("template_type=book", False),
        ("metadata.simulated=true", True),
        ('metadata.simulated="true"', False),
        ("metadata.round=2", True),
        ("metadata.round=2.0", True),
        ("metadata.topic=soil mites", True),
        ("metadata.topic=soil", False),
        ("metadata.simulated=true&metadata.round=3", False),
        ('metadata.number="5"', True),
        ("metadata.number=5", False),
        ("metadata.nothing=null", True),
        ("metadata.score=NaN", True),
        ("metadata.score=[", False),
    ],
)
async def test_emails_are_filtered(
    client: httpx.AsyncClient, store: InMemoryRunStore, query: str, *, matches: bool
) -> None:
    """Values that are JSON scalars mean that, others are text; all must match."""
    store.add_email(
        await post_run(client),
        simulated=True,
        round=2,
        topic="soil mites",
        number="5",
        nothing=None,
        score="NaN",
    )

    answer = await client.get(f"/v1/emails?{query}")

    assert answer.status_code == 200, answer.text
    assert [1] * matches == [1 for _ in answer.json()["items"]]


async def test_emails_of_one_run_are_found_by_its_id(
    client: httpx.AsyncClient, store: InMemoryRunStore
) -> None:
    """From a run to what it wrote."""
    first, second = await post_run(client), await post_run(client)
    email = store.add_email(first)
    store.add_email(second)

    found = (await client.get("/v1/emails", params={"run_id": str(first)})).json()["items"]

    assert [str(email.id)] == [item["id"] for item in found]


@pytest.mark.parametrize(
    "query",
    [
        "metadata=1",
        "surprise=1",
        "metadata.a=1&metadata.a=2",
        "metadata.a=%00",
        "metadata.%00=1",
        "metadata.a=1e999",
        "run_id=1",
        "template_type=%00",
        "cursor=nonsense",
        "metadata.a=" + "%5B" * 5000 + "&limit=x",
    ],
)
async def test_a_wrong_filter_is_422(client: httpx.AsyncClient, query: str) -> None:
    """Whatever is wrong with it."""
    assert_problem(await client.get(f"/v1/emails?{query}"), 422, "invalid-request")


async def test_emails_come_page_by_page(client: httpx.AsyncClient, store: InMemoryRunStore) -> None:
    """Newest first, each once."""
    run_id = await post_run(client)
    written = [str(store.add_email(run_id).id) for _ in range(3)]

    first = (await client.get("/v1/emails", params={"limit": 2})).json()
    second = (
        await client.get("/v1/emails", params={"limit": 2, "cursor": first["next_cursor"]})
    ).json()

    listed = [item["id"] for item in first["items"] + second["items"]]
    assert written[::-1] == listed
    assert second["next_cursor"] is None
