"""A process is known to be dead: its runs come back at once, and the right one pays."""

import asyncio
from dataclasses import dataclass

import pytest
from uuid_utils.compat import uuid7

from services.core.errors import LeaseLostError
from services.core.runs.models import ApiKey, Checkpoint, DueHint, Lease, Run
from services.core.runs.states import RunState
from services.core.runs.store import RunStore
from services.core.runs.sweeps import SUSPECT_LAPSES
from tests.integration.conftest import StoreFactory
from tests.integration.core.runs.pieces import SHAPES, accept, claim


async def standing(store: RunStore, api_key: ApiKey, run: Run) -> tuple[RunState, int, int]:
    """State, crashes and lapses of a run."""
    now = await store.get_run(api_key.id, run.id)
    return now.state, now.crashes, now.lapses


@dataclass(frozen=True)
class Death:
    """How a process died, and what it means for its two runs."""

    culprit: str | None
    first: tuple[int, int]
    """Crashes and lapses of the first run afterwards."""
    second: tuple[int, int]


DEATHS = [
    pytest.param(Death("first", (1, 0), (0, 0)), id="one-pays-for-all"),
    pytest.param(Death("second", (0, 0), (1, 0)), id="the-other-pays"),
    pytest.param(Death(None, (0, 1), (0, 1)), id="nobody-knows"),
    pytest.param(Death("gone", (0, 1), (0, 1)), id="the-culprit-is-held-no-more"),
]


@pytest.mark.parametrize("death", DEATHS)
async def test_who_pays_for_a_death(store: RunStore, api_key: ApiKey, death: Death) -> None:
    """The run that was on the CPU has a crash; without one to blame, all have a lapse."""
    runs = {"first": await accept(store, api_key), "second": await accept(store, api_key)}
    leases = await store.claim_due_runs(owner="w1#1", limit=2, shapes=SHAPES)
    culprit = death.culprit and (runs[death.culprit].id if death.culprit in runs else uuid7())

    assert await store.bury_process("w1#1", culprit=culprit) == 2
    assert await store.bury_process("w1#1", culprit=culprit) == 0

    assert await standing(store, api_key, runs["first"]) == (RunState.QUEUED, *death.first)
    assert await standing(store, api_key, runs["second"]) == (RunState.QUEUED, *death.second)
    assert await store.find_held(leases) == set()
    expected = {
        DueHint(run.id, is_isolated=bool(crashes))
        for run, (crashes, _) in zip(runs.values(), (death.first, death.second), strict=True)
    }
    assert set(await store.take_due_hints()) == expected


async def test_an_innocent_run_is_never_counted_out(store: RunStore, api_key: ApiKey) -> None:
    """However often a run shares a process with one that kills it, it goes on among others."""
    innocent = await accept(store, api_key)
    for _ in range(5):
        poison = await accept(store, api_key)
        await store.claim_due_runs(owner="w1", limit=2, shapes=SHAPES)
        assert await store.bury_process("w1", culprit=poison.id) == 2

    assert await standing(store, api_key, innocent) == (RunState.QUEUED, 0, 0)
    await store.finish_run(await claim(store), {})


async def test_a_suspect_alone_pays_even_if_nobody_saw_it(store: RunStore, api_key: ApiKey) -> None:
    """Whoever had the process to itself is the only one that it can have died of."""
    run = await accept(store, api_key)
    for _ in range(SUSPECT_LAPSES):
        await claim(store)
        await store.bury_process("w1", culprit=None)
    assert await standing(store, api_key, run) == (RunState.QUEUED, 0, SUSPECT_LAPSES)
    assert await store.claim_isolated_run(run.id, owner="i1", shapes=SHAPES)

    assert await store.bury_process("i1", culprit=None) == 1

    assert await standing(store, api_key, run) == (RunState.QUEUED, 1, SUSPECT_LAPSES)


async def test_the_runs_of_others_are_left_alone(store: RunStore, api_key: ApiKey) -> None:
    """Neither another process nor the next start of the same one loses a run, nor pays."""
    runs = [await accept(store, api_key) for _ in range(3)]
    [taken] = await store.claim_due_runs(owner="w1#1", limit=1, shapes=SHAPES)
    await store.release_run(taken)
    leases = await store.claim_due_runs(owner="w1#2", limit=2, shapes=SHAPES)
    leases += await store.claim_due_runs(owner="w2#1", limit=1, shapes=SHAPES)

    assert await store.bury_process("w1#1", culprit=taken.run_id) == 0

    assert await store.find_held(leases) == {run.id for run in runs}
    for run in runs:
        assert await standing(store, api_key, run) == (RunState.RUNNING, 0, 0)


async def test_burying_needs_no_grace(open_store: StoreFactory, api_key: ApiKey) -> None:
    """Right after a restart of PostgreSQL too: the process is known to be dead."""
    # A lease longer than this server has been up: for it, PostgreSQL has just started.
    young = open_store(lease_ttl_s=10**6)
    await accept(young, api_key)
    await claim(young)

    assert await young.requeue_lapsed_runs() == 0
    assert await young.bury_process("w1", culprit=None) == 1


async def test_sweeps_burials_and_renewals_at_once(
    open_store: StoreFactory, api_key: ApiKey
) -> None:
    """Five hundred runs that all want to change at once: no deadlock, each taken back once."""
    stores = [open_store(lease_ttl_s=0.2) for _ in range(4)]
    runs = await asyncio.gather(*(accept(stores[0], api_key) for _ in range(500)))
    leases: list[Lease] = []
    while taken := await stores[0].claim_due_runs(owner="w1", limit=100, shapes=SHAPES):
        leases += taken
    await asyncio.sleep(0.3)

    async def write(lease: Lease) -> None:
        await stores[3].record_checkpoint(lease, Checkpoint("parse", {}))

    taking_back = asyncio.gather(
        stores[0].requeue_lapsed_runs(limit=300),
        stores[1].requeue_lapsed_runs(limit=300),
        stores[2].bury_process("w1", culprit=runs[250].id),
        stores[3].bury_process("w1", culprit=runs[250].id),
    )
    holding = asyncio.gather(
        stores[0].renew_leases(leases[::-1]),
        stores[1].renew_leases(leases),
        *map(write, leases[::-1]),
        return_exceptions=True,
    )

    errors = {type(result) for result in await holding if isinstance(result, Exception)}
    assert errors <= {LeaseLostError}
    assert sum(await taking_back) == 500
    assert await stores[0].find_held(leases) == set()
    standings = [await standing(stores[0], api_key, run) for run in runs]
    assert {state for state, _, _ in standings} == {RunState.QUEUED}
    assert {crashes + lapses for _, crashes, lapses in standings} <= {0, 1}
    assert sum(crashes for _, crashes, _ in standings) <= 1
