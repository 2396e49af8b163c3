"""Keys: who gets in, and what strangers cannot learn."""

import hmac

import httpx
import pytest

from services.api import auth
from services.api.auth import authenticate
from services.api.errors import UnauthorizedError
from services.core.runs.keys import generate_key, parse_key
from tests.fakes.run_store import InMemoryRunStore
from tests.unit.api.conftest import add_key, client_of


def prefix_of(key: str) -> str:
    """The part of a key that it is found by."""
    parsed = parse_key(key)
    assert parsed is not None
    return parsed[0]


async def authenticated(store: InMemoryRunStore, authorization: str) -> str:
    """The prefix of the key that a header is accepted for."""
    return (await authenticate(authorization, store)).prefix  # type: ignore[arg-type]  # has find_key


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
async def test_a_good_key_is_accepted(store: InMemoryRunStore, scheme: str) -> None:
    """The scheme's case does not matter."""
    key = await add_key(store)

    assert prefix_of(key) == await authenticated(store, f"{scheme} {key}")


async def test_a_revoked_key_is_refused_at_once(app, store: InMemoryRunStore) -> None:
    """There is no cache that would let it in a little longer."""
    key = await add_key(store)
    async with client_of(app, key) as client:
        before = await client.get("/v1/runs")
        await store.revoke_key(prefix_of(key))
        after = await client.get("/v1/runs")

    assert (before.status_code, after.status_code) == (200, 401)


async def test_the_right_prefix_with_a_wrong_secret_is_refused(store: InMemoryRunStore) -> None:
    """The prefix is no secret: it is in lists and logs."""
    key, other = await add_key(store), generate_key()
    forged = key[:17] + other[17:]

    with pytest.raises(UnauthorizedError):
        await authenticated(store, f"Bearer {forged}")


async def test_unknown_and_wrong_keys_cost_the_same_work(
    store: InMemoryRunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One look-up and one comparison in constant time, whether the prefix exists or not."""
    compared: list[int] = []

    def compare(stored: bytes, given: bytes) -> bool:
        compared.append(len(stored))
        return hmac.compare_digest(stored, given)

    monkeypatch.setattr(auth, "compare_digest", compare)
    known = await add_key(store)
    store.statements.clear()

    for key in (generate_key(), known[:17] + generate_key()[17:]):
        with pytest.raises(UnauthorizedError):
            await authenticated(store, f"Bearer {key}")

    assert compared == [32, 32]
    assert store.statements == ["find_key", "find_key"]


async def test_unknown_and_wrong_keys_get_the_same_answer(
    stranger: httpx.AsyncClient, store: InMemoryRunStore
) -> None:
    """Nothing tells whether a prefix exists."""
    known = await add_key(store)
    bodies = []
    for key in (generate_key(), known[:17] + generate_key()[17:], "nonsense"):
        answer = await stranger.get("/v1/runs", headers={"Authorization": f"Bearer {key}"})
        bodies.append((answer.status_code, answer.json() | {"request_id": None}))

    assert bodies[0] == bodies[1] == bodies[2]
