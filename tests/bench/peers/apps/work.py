"""What every peer is given to do; only the standard library, and the Anthropic SDK where it is asked."""

import logging
import os
import sys
import time
from typing import Any

TEXT = "x" * 150


def setting(name: str, default: str = "") -> str:
    """What the benchmark tells its processes; they have no settings of Penstock."""
    return os.environ.get(name, default)  # noqa: TID251 - see above


def arguments(number: int) -> dict[str, Any]:
    """A task's arguments: about 180 bytes of JSON, like the input of Penstock's run."""
    return {"number": number, "text": TEXT}


def be_quiet(logger: str) -> None:
    """Log warnings only, as all others do."""
    logging.getLogger(logger).setLevel(logging.WARNING)


def count() -> int:
    """How many tasks to enqueue: the only argument of the command."""
    return int(sys.argv[1])


def begin() -> tuple[float, float]:
    """Now, as seconds of wall time and of this process's CPU."""
    return time.monotonic(), time.process_time()


def report(began_s: tuple[float, float]) -> None:
    """Say what has happened since then took: seconds of wall time and of CPU."""
    wall_s, cpu_s = began_s
    sys.stdout.write(f"{time.monotonic() - wall_s} {time.process_time() - cpu_s}\n")


def make_client() -> Any:
    """A client of Claude, as a project with such tasks has one: the SDK tries again when a connection breaks."""
    import anthropic  # noqa: PLC0415 - not all environments have it

    url = setting("ANTHROPIC_SIMULATOR_URL")
    return anthropic.AsyncAnthropic(api_key="sk-simulator", base_url=url, timeout=60)


async def ask(client: Any, number: int, text: str) -> str:
    """One call to Claude: the same words as Penstock's step."""
    message = await client.messages.create(
        model=setting("BENCH_MODEL"),
        max_tokens=64,
        messages=[{"role": "user", "content": f"{number}: {text}"}],
    )
    return str(message.content[0].text)
