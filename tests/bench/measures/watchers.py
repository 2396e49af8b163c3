"""5,000 clients that watch runs by Server-Sent Events on one API process."""

import asyncio
import resource
import time
from collections.abc import Mapping
from statistics import quantiles
from urllib.parse import urlsplit

import httpx

from tests.bench.benchmark import Benchmark, Goal, median_of
from tests.bench.stack import Process, Stack, running_stack

CLIENTS = 5000
RUNS = 100
"""Watched runs; each has as many clients as the others."""
AT_ONCE = 100
"""Clients that connect at the same time."""
CONNECT_S = 180
END_S = 120.0
FILES = 20_000
SETTINGS = {
    "ANTHROPIC_SIMULATOR_URL": "http://127.0.0.1:9",
    "API_WORKERS": "1",
}
BODY = {"pipeline": "bench_noop", "input": {"number": 1742, "text": "x" * 91}}
PROBE_PAUSE_S = 0.1


def penstock() -> Mapping[str, float]:
    """Runs wait while the clients connect; then a worker starts, and all must see the ends."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES if most == resource.RLIM_INFINITY else min(FILES, most)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))  # children inherit it
    with running_stack(**SETTINGS) as stack, stack.api() as (url, api):
        return asyncio.run(_measure(stack, url, api))


async def _measure(stack: Stack, url: str, api: Process) -> Mapping[str, float]:
    headers = {"Authorization": f"Bearer {stack.key}"}
    async with httpx.AsyncClient(base_url=url, headers=headers, timeout=30) as http:
        run_ids = [await _post(http) for _ in range(RUNS)]
        idle_mib = api.pss_mib
        watchers = await _connect(url, stack.key, run_ids)
        held_mib = api.pss_mib
        began_s = time.perf_counter()
        waits_ms, ended = await _end_all(stack, http, watchers)
    lost = sum(not is_ended for is_ended in ended)
    return {
        "lost": lost,
        "kib_each": (held_mib - idle_mib) * 1024 / CLIENTS,
        "post_p99_ms": quantiles(waits_ms, n=100)[98],
        "ended_s": time.perf_counter() - began_s,
    }


async def _post(http: httpx.AsyncClient) -> str:
    answer = await http.post("/v1/runs", json=BODY)
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


async def _connect(url: str, key: str, run_ids: list[str]) -> "list[asyncio.Task[bool]]":
    """Every client, once its first event is there; a task each that says whether the final one came."""
    room = asyncio.Semaphore(AT_ONCE)

    async def one(number: int) -> "asyncio.Task[bool]":
        async with room:
            reader, writer = await _open(url, key, run_ids[number % RUNS])
            await reader.readuntil(b"event: run.queued")
        return asyncio.create_task(_sees_end(reader, writer))

    async with asyncio.timeout(CONNECT_S):
        return await asyncio.gather(*(one(number) for number in range(CLIENTS)))


async def _open(
    url: str, key: str, run_id: str
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    server = urlsplit(url)
    reader, writer = await asyncio.open_connection(server.hostname, server.port)
    head = (
        f"GET /v1/runs/{run_id}/events HTTP/1.1\r\nHost: {server.netloc}\r\n"
        f"Authorization: Bearer {key}\r\n\r\n"
    )
    writer.write(head.encode())
    return reader, writer


async def _sees_end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    """Whether the final event came before the stream ended."""
    try:
        await reader.readuntil(b"event: run.succeeded")
    except asyncio.IncompleteReadError:
        return False
    finally:
        writer.close()
    return True


async def _end_all(
    stack: Stack, http: httpx.AsyncClient, watchers: "list[asyncio.Task[bool]]"
) -> tuple[list[float], list[bool]]:
    """Start a worker; what others wait for a POST meanwhile, in ms, and which clients saw the end."""
    waits_ms: list[float] = []

    async def post_others() -> None:
        while True:
            began_s = time.perf_counter()
            await _post(http)
            waits_ms.append((time.perf_counter() - began_s) * 1000)
            await asyncio.sleep(PROBE_PAUSE_S)

    worker = stack.worker()
    others = asyncio.create_task(post_others())
    await asyncio.to_thread(worker.__enter__)
    try:
        _, unended = await asyncio.wait(watchers, timeout=END_S)
    finally:
        others.cancel()
        await asyncio.to_thread(worker.__exit__, None, None, None)
    for task in unended:
        task.cancel()
    return waits_ms, [task not in unended and task.result() for task in watchers]


BENCHMARK = Benchmark(
    name="watchers",
    title="Watching runs",
    what=(
        f"{CLIENTS:,} clients watch {RUNS} queued runs by Server-Sent Events on one API process. Then a worker starts "
        "and the runs end. Clients that saw no final event, the memory of the API process per client while all are "
        "connected, and what others waited for a POST meanwhile."
    ),
    units={"lost": "clients", "kib_each": "KiB", "post_p99_ms": "ms", "ended_s": "s"},
    subjects={"Penstock": penstock},
    goals=(
        Goal(
            name="5,000 SSE clients, without their final event",
            bound=0,
            unit="clients",
            is_at_most=True,
            of=lambda rounds: max(one["lost"] for one in rounds["Penstock"]),
        ),
        Goal(
            name="5,000 SSE clients, memory each",
            bound=40,
            unit="KiB",
            is_at_most=True,
            of=lambda rounds: median_of(rounds, "Penstock", "kib_each"),
        ),
    ),
    rounds=1,
)
