"""How texts stand in Redis and travel through it: the contract between workers and API.

Each call has one key with its text so far, and each run a list that names these keys. What is added
is published at the same moment on the run's channel. All of it expires; nothing here is the record.
During a rolling deploy old and new processes share this, so a new field is optional.
"""

from typing import Final, NamedTuple, Self
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

MAX_CHARACTERS: Final = 262_144
"""Characters of one call's text that are kept and shown."""
MAX_CALLS: Final = 256
"""Calls of a run whose texts can be found; earlier ones give way."""
KEPT_FOR_S: Final = 600.0
"""Seconds that a text stays after its last piece, should nobody end it."""
KEPT_AFTER_END_S: Final = 10.0
"""Seconds that a text stays after its try has ended: a browser comes back after three or five."""

WRITE: Final = """
local before, text, name, message, ttl_ms = tonumber(ARGV[1]), ARGV[2], ARGV[3], ARGV[4], ARGV[5]
if before == 0 then
  if redis.call('TYPE', KEYS[2]).ok ~= 'list' then redis.call('DEL', KEYS[2]) end
  redis.call('SET', KEYS[1], text, 'PX', ttl_ms)
  redis.call('LREM', KEYS[2], 0, name)
  redis.call('RPUSH', KEYS[2], name)
  redis.call('LTRIM', KEYS[2], -tonumber(ARGV[6]), -1)
else
  if redis.call('STRLEN', KEYS[1]) ~= before or redis.call('EXISTS', KEYS[2]) == 0 then
    return 0
  end
  redis.call('APPEND', KEYS[1], text)
  redis.call('PEXPIRE', KEYS[1], ttl_ms)
end
redis.call('PEXPIRE', KEYS[2], ttl_ms)
redis.call('PUBLISH', KEYS[2], message)
return 1
"""
"""Keeps a piece and publishes it, at one moment: whoever subscribes and then reads misses nothing.

Gives 0, and does nothing, if what came before it is not there: Redis has forgotten it.
"""


class CallName(NamedTuple):
    """Tells a call's text from all others of its run."""

    fence: int
    """Of the lease under which it is made."""
    attempt: int
    """The try of the step."""
    call: int
    """0, 1, 2, … within the try."""
    step: str

    def __str__(self) -> str:
        """As Redis has it."""
        return f"{self.fence}.{self.attempt}.{self.call}.{self.step}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """The name that was written so.

        Raises:
            ValueError: It is none.
        """
        fence, attempt, call, step = text.split(".", 3)
        return cls(int(fence), int(attempt), int(call), step)


class Piece(BaseModel):
    """A piece of a call's text, as it is published."""

    model_config = ConfigDict(frozen=True, strict=True)

    fence: int
    attempt: int
    call: int
    step: str
    offset: int = Field(ge=0)
    """Characters of the call's text that come before it."""
    text: str

    @property
    def name(self) -> CallName:
        """Whose text it is."""
        return CallName(self.fence, self.attempt, self.call, self.step)


def channel_of(db: int, run_id: UUID | str) -> str:
    """The channel of a run, and the key of its list. Channels know no database, so it is in the name."""
    return f"penstock.{db}.texts.{run_id}"


def key_of(channel: str, name: CallName) -> str:
    """The key of a call's text."""
    return f"{channel}.{name}"
