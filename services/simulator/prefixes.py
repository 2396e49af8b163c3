"""A prompt as Claude reads it: block after block, each the end of a prefix that can be cached."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from services.simulator.schemas import Block, CountTokensRequest
from services.simulator.tokens import TOKENS_PER_MESSAGE, count_tokens


@dataclass(frozen=True, slots=True)
class Prefix:
    """A prompt from its beginning up to the end of a block."""

    key: bytes
    """Tells what is different apart, the model included."""
    tokens: int
    ttl: Literal["5m", "1h"] | None = None
    """How long it is to be cached, if it is marked to be."""


def read_prefixes(request: CountTokensRequest) -> list[Prefix]:
    """The prefixes of a prompt, from the shortest, which is the model and the schema, to the whole.

    The schema comes first since the API writes it before the system prompt: requests with
    different schemas share no cache.
    """
    schema = json.dumps(request.json_schema) if request.json_schema else ""
    digest = hashlib.sha256(f"{request.model}\0{schema}".encode())
    tokens = _count(schema) + TOKENS_PER_MESSAGE if schema else 0
    found = [Prefix(digest.digest(), tokens)]
    last = next((block for block in reversed(request.blocks) if block.text), None)
    for place, block, overhead in _placed_blocks(request):
        mark = block.cache_control or (request.cache_control if block is last else None)
        digest.update(f"\0{place}\0{block.text}".encode())
        tokens += _count(block.text) + overhead
        found.append(Prefix(digest.digest(), tokens, mark.ttl if mark else None))
    return found


def count_input_tokens(request: CountTokensRequest) -> int:
    """Tokens of the system prompt, the messages and the schema."""
    return read_prefixes(request)[-1].tokens


def _placed_blocks(request: CountTokensRequest) -> Iterator[tuple[str, Block, int]]:
    """Each block with where it stands, and the tokens of a message's frame at the first that has text."""
    turns = [
        (f"{number} {turn.role}", turn.content) for number, turn in enumerate(request.messages)
    ]
    for place, blocks in [("system", request.system), *turns]:
        overhead = TOKENS_PER_MESSAGE
        for block in blocks:
            yield place, block, overhead if block.text else 0
            overhead = 0 if block.text else overhead


# Long prefixes come again and again; counting takes a second for some megabytes.
@lru_cache(maxsize=256)
def _count(text: str) -> int:
    return count_tokens(text)
