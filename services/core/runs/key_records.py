"""API keys in the record: never the key itself, only what tells it again."""

from decimal import Decimal
from uuid import UUID

from uuid_utils.compat import uuid7

from services.core.db import Database
from services.core.pool import Row
from services.core.runs.encoding import storable_text
from services.core.runs.models import ApiKey
from services.core.runs.sql import statement

FIND_KEY = statement("SELECT * FROM api_keys WHERE prefix = :prefix")

# The same key again is no change; another key of the same prefix gives no row.
ADD_KEY = statement(
    """
    INSERT INTO api_keys (id, prefix, name, key_hash) VALUES (:id, :prefix, :name, :key_hash)
        ON CONFLICT (prefix) DO UPDATE SET key_hash = excluded.key_hash
     WHERE api_keys.key_hash = excluded.key_hash
 RETURNING *
    """
)

REVOKE_KEY = statement(
    """
    UPDATE api_keys SET revoked_at = now()
     WHERE prefix = :prefix AND revoked_at IS NULL
 RETURNING id
    """
)

SET_KEY_LIMITS = statement(
    """
    UPDATE api_keys
       SET daily_budget_usd = CAST(:daily_budget_usd AS numeric),
           max_running = CAST(:max_running AS integer)
     WHERE prefix = :prefix
 RETURNING *
    """
)

LIST_KEYS = statement("SELECT * FROM api_keys ORDER BY id")


class KeyPrefixTakenError(ValueError):
    """Another key has the same prefix."""


class KeyRecords:
    """Finds, adds, revokes and lists keys. RunStore says what each method promises."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def find_key(self, prefix: str) -> ApiKey | None:
        """The key with that prefix."""
        rows = await self._database.fetch(FIND_KEY, {"prefix": storable_text(prefix)})
        return _key(rows[0]) if rows else None

    async def add_key(self, *, name: str, prefix: str, key_hash: bytes) -> ApiKey:
        """Store a key's hash."""
        new_id: UUID = uuid7()
        rows = await self._database.fetch(
            ADD_KEY, {"id": new_id, "prefix": prefix, "name": name, "key_hash": key_hash}
        )
        if not rows:
            raise KeyPrefixTakenError(KeyPrefixTakenError.__doc__)
        return _key(rows[0])

    async def revoke_key(self, prefix: str) -> bool:
        """Revoke a key; whether there was one to revoke."""
        return bool(await self._database.fetch(REVOKE_KEY, {"prefix": storable_text(prefix)}))

    async def set_key_limits(
        self, prefix: str, *, daily_budget_usd: Decimal | None, max_running: int | None
    ) -> ApiKey | None:
        """Limit a key; the key, if there is one."""
        rows = await self._database.fetch(
            SET_KEY_LIMITS,
            {
                "prefix": storable_text(prefix),
                "daily_budget_usd": daily_budget_usd,
                "max_running": max_running,
            },
        )
        return _key(rows[0]) if rows else None

    async def list_keys(self) -> list[ApiKey]:
        """Every key, the oldest first."""
        return [_key(row) for row in await self._database.fetch(LIST_KEYS)]


def _key(row: Row) -> ApiKey:
    """A key from its row."""
    return ApiKey(
        id=row.id,
        prefix=row.prefix,
        name=row.name,
        key_hash=row.key_hash,
        is_revoked=row.revoked_at is not None,
        daily_budget_usd=row.daily_budget_usd,
        max_running=row.max_running,
    )
