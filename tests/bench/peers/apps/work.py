"""What every peer is given to do; only the standard library, and the Anthropic SDK where it is asked."""

import os
import sys
import time
from typing import Any

TEXT = "x" * 150


def arguments(number: int) -> dict[str, Any]:
    """A task's arguments: about 180 bytes of JSON, like the input of Penstock's run."""
    return {"number": number, "text": TEXT}


def count() -> int:
    """How many tasks to enqueue: the only argument of the command."""
    return int(sys.argv[1])


def report(began_s: float) -> None:
    """Say what the enqueuing since then took: seconds of wall time and of CPU."""
    times = os.times()
    sys.stdout.write(f"{time.monotonic() - began_s} {times.user + times.system}\n")


async def ask(client: Any, number: int, text: str) -> str:
    """One call to Claude, as Penstock's step makes it."""
    message = await client.messages.create(
        model=os.environ["BENCH_MODEL"],
        max_tokens=64,
        messages=[{"role": "user", "content": f"{number}: {text}"}],
        timeout=60,
    )
    return str(message.content[0].text)
