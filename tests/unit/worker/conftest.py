"""A worker's parts on fakes."""

from collections.abc import Callable

import pytest

from services.worker.admission import FreeAdmission
from services.worker.executor import Limits, Outside, RunExecutor
from services.worker.identity import Identity, shapes_of
from services.worker.leases import LeaseKeeper
from services.worker.retry import RetryPolicy
from tests.fakes.memory_store import MemoryRunStore
from tests.fakes.quiet_reporter import QuietReporter
from tests.fakes.tiny_pipeline import ScriptedClaude, tiny_pipeline
from tests.fakes.told_texts import ToldTexts

MakeExecutor = Callable[..., RunExecutor]


@pytest.fixture
def store() -> MemoryRunStore:
    """An empty record."""
    return MemoryRunStore()


@pytest.fixture
def claude() -> ScriptedClaude:
    """A Claude that answers."""
    return ScriptedClaude()


@pytest.fixture
def texts() -> ToldTexts:
    """What those who watch are told of Claude's answers."""
    return ToldTexts()


@pytest.fixture
def reporter() -> QuietReporter:
    """What Flower is told."""
    return QuietReporter()


@pytest.fixture
def make_executor(store: MemoryRunStore, claude: ScriptedClaude, texts: ToldTexts) -> MakeExecutor:
    """Make an executor of the tiny pipeline."""

    def make(pipeline=None, *, max_attempts: int = 3, step_s: float = 5) -> RunExecutor:
        return RunExecutor(
            store,
            Outside(claude=claude, web=None, arxiv_url=""),
            texts=texts,
            admits=FreeAdmission(),
            pipelines={"tiny": pipeline or tiny_pipeline()},
            retry_policy=RetryPolicy(max_attempts, backoff_s=2, backoff_max_s=60),
            limits=Limits(step_s=step_s, run_s=3600),
        )

    return make


@pytest.fixture
def identity() -> Identity:
    """A worker that knows the tiny pipeline."""
    return Identity("worker@test", "worker", "worker@test/1", shapes_of([tiny_pipeline()]))


@pytest.fixture
def keeper(
    store: MemoryRunStore, make_executor: MakeExecutor, reporter: QuietReporter, identity: Identity
) -> LeaseKeeper:
    """Executes runs of the tiny pipeline; beats every 10 ms."""
    return LeaseKeeper(
        store,
        make_executor(),
        reporter,
        identity=identity,
        lease_ttl_s=0.03,
    )
