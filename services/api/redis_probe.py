"""Whether Redis is there and takes writes. The API only asks; hints go through core.queue."""

from typing import Final

from config.redis import RedisSettings
from services.core.live_text.client import create_client

PROBE_KEY: Final = "penstock.probe"
PROBE_TTL_S: Final = 60


class RedisProbe:
    """A client of the broker's database: a probe tells how it is, it does not wait until it is well."""

    def __init__(self, settings: RedisSettings) -> None:
        self._client = create_client(settings)

    async def write(self) -> None:
        """Return if Redis takes a write: one that is full or cannot save answers everything else.

        Raises:
            RedisError: It does not.
        """
        await self._client.set(PROBE_KEY, "", ex=PROBE_TTL_S)

    async def close(self) -> None:
        """Close the connection."""
        await self._client.aclose()
