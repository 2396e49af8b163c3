"""The table of faults."""

from typing import Final

from tests.chaos import garbage
from tests.chaos.compound_faults import COMPOUNDS
from tests.chaos.deploys import deploy_next
from tests.chaos.disks import DISKS
from tests.chaos.faults import (
    COMPOSE,
    Action,
    Answers,
    Fault,
    claude,
    cut,
    for_s,
    frozen,
    killed,
    poisoned,
    restart_bound,
)
from tests.chaos.scene import Scene

API_HURT: Final = {"answers": Answers.ANY, "moments": 0}
RECORD_HURT: Final = {"answers": Answers.REFUSE}
REDIS_HURT: Final = {"bound_s": restart_bound}
LONG_STEPS: Final = {"seconds": 3.5}
"""Longer than a stopping worker waits (CELERY_SHUTDOWN_GRACE_S)."""
RUNNING: Final = """
    SELECT count(*) AS n FROM steps JOIN runs ON runs.id = steps.run_id
    WHERE runs.state = 'running' AND steps.state = 'running'
"""
MOST_DEATHS: Final = 9
"""With which a run is a suspect, even if some of them were charged to others."""
MAXMEMORY: Final = "268435456"
"""As in docker/redis/redis.conf."""


def kill_inside(service: str, *, every: bool = False) -> Action:
    """SIGKILL below what watches over it."""
    return lambda scene: _kill_inside(scene, service, every=every)


def _kill_inside(scene: Scene, service: str, *, every: bool) -> None:
    scene.stack.kill_inside(service, every=every)


def _kill_suspects(scene: Scene) -> None:
    """Make suspects of the runs by deaths in a row, and kill the processes that execute them.

    Five deaths do, or a few more: one that strikes while a run is on the CPU is that run's alone.
    """
    for deaths in range(1, MOST_DEATHS + 1):
        scene.stack.kill_inside("worker")
        scene.until(f"{RUNNING} AND (runs.is_isolated OR runs.attempts > {deaths})", at_least=1)
        if scene.stack.sql(f"{RUNNING} AND runs.is_isolated")[0]["n"]:
            break
    scene.stack.kill_inside("worker-isolated", every=True)


def _redis(*arguments: str) -> Action:
    return lambda scene: _command(scene, arguments)


def _command(scene: Scene, arguments: tuple[str, ...]) -> None:
    scene.stack.redis(*arguments)


def _shell(service: str, command: str) -> Action:
    return lambda scene: _run(scene, service, command)


def _run(scene: Scene, service: str, command: str) -> None:
    scene.stack.shell(service, command)


def _stop_worker(scene: Scene) -> None:
    scene.stack.stop("worker")


def _start_worker(scene: Scene) -> None:
    scene.stack.start("worker")


def hang_bound(scene: Scene) -> float:
    """A hanging call is given up after ANTHROPIC_TIMEOUT_S."""
    return scene.bound_s + scene.call_timeout_s


def _thrown(name: str) -> Fault:
    return Fault(
        f"garbage: {name}",
        f"{name} on every queue",
        lambda scene: garbage.throw(scene, name),
        hold_s=for_s(1.0),
    )


PROCESSES: Final = (
    Fault(
        "kill pool process",
        "SIGKILL of the process that executes runs; nothing else is touched",
        kill_inside("worker"),
    ),
    killed("worker", "worker", what="SIGKILL of the worker's container, started again after 1 s"),
    killed(
        "all workers",
        "worker",
        "worker-isolated",
        what="SIGKILL of the containers of both kinds of worker, started again after 1 s",
    ),
    Fault(
        "kill isolated children",
        "deaths of the pool process in a row until runs are suspects, five as a rule, "
        "then SIGKILL of the children that execute these",
        _kill_suspects,
        moments=MOST_DEATHS + 1,
        runs=6,
        running=1,
        # A checkpoint clears a suspect, so the first step must outlast the time that it takes to see it and to kill.
        input={"seconds": 0.3, "first_seconds": 5},
        input_after={"seconds": 0.3},
    ),
    killed(
        "isolated worker",
        "worker-isolated",
        what="SIGKILL of the isolated worker's container, started again after 1 s",
    ),
    killed("beat", "beat", what="SIGKILL of beat, started again after 1 s", moments=0),
    Fault(
        "kill one API process",
        "SIGKILL of one of gunicorn's workers",
        kill_inside("api"),
        **API_HURT,
    ),
    killed(
        "API", "api", what="SIGKILL of the API's container, started again after 1 s", **API_HURT
    ),
    killed(
        "Redis",
        "redis",
        what="SIGKILL of Redis, started again after 1 s",
        **REDIS_HURT,
    ),
    killed(
        "PostgreSQL",
        "postgres",
        what="SIGKILL of PostgreSQL, started again after 1 s",
        **RECORD_HURT,
    ),
    Fault(
        "kill PostgreSQL backend",
        "SIGKILL of one server process, upon which PostgreSQL restarts all of them",
        kill_inside("postgres"),
        **RECORD_HURT,
    ),
    Fault(
        "PostgreSQL immediate stop",
        "SIGQUIT (`pg_ctl stop -m immediate`); its container restarts it",
        lambda scene: scene.stack.signal("postgres", "QUIT"),
        hold_s=for_s(1.0),
        **RECORD_HURT,
    ),
)
FREEZES: Final = (
    frozen("worker", what="the worker stands still for longer than its leases, then goes on"),
    frozen("worker-isolated", what="the isolated worker stands still, then goes on"),
    frozen("beat", what="beat stands still, then goes on", moments=0),
    frozen("api", what="the API stands still, then goes on", **API_HURT),
    frozen("redis", what="Redis stands still, then goes on", **REDIS_HURT),
    frozen("postgres", what="PostgreSQL stands still, then goes on", **RECORD_HURT),
)
CUTS: Final = (
    cut("api", "postgres", answers=Answers.REFUSE, moments=0, hold_s=for_s(2.5)),
    cut("api", "redis", moments=0, hold_s=for_s(2.5), **REDIS_HURT),
    cut("worker", "postgres"),
    cut("worker", "redis", **REDIS_HURT),
    cut("worker", "simulator", hold_s=for_s(2.5)),
    cut("worker-isolated", "postgres", hold_s=for_s(2.5)),
    cut("worker-isolated", "redis", hold_s=for_s(2.5), **REDIS_HURT),
    cut("beat", "redis", hold_s=for_s(2.5), moments=0, **REDIS_HURT),
)
STORES: Final = (
    Fault("Redis FLUSHALL", "everything in Redis is gone", _redis("FLUSHALL"), **REDIS_HURT),
    Fault(
        "Redis full",
        "maxmemory is reached, without eviction: every write is refused",
        _redis("CONFIG", "SET", "maxmemory", "1"),
        _redis("CONFIG", "SET", "maxmemory", MAXMEMORY),
        hold_s=for_s(2.5),
        **REDIS_HURT,
    ),
    *map(_thrown, garbage.GARBAGE),
)
STOPS: Final = (
    Fault(
        "stop worker, short steps",
        "`docker stop` of the worker, and its start; its steps end within the grace period",
        _stop_worker,
        _start_worker,
        bound_s=restart_bound,
    ),
    Fault(
        "stop worker, long steps",
        "the same with steps that take longer than the grace period",
        _stop_worker,
        _start_worker,
        bound_s=restart_bound,
        input=LONG_STEPS,
    ),
    Fault(
        "two beats",
        "a second beat beside the first",
        lambda scene: scene.stack.scale("beat", 2),
        lambda scene: scene.stack.scale("beat", 1),
        hold_s=for_s(3.0),
        moments=0,
    ),
)
CLOCKS: Final = tuple(
    Fault(
        f"worker's clock {direction}",
        f"the worker's wall clock is {direction} by an hour, then right again",
        _shell("worker", f"echo {shift_s} > /tmp/clock-shift"),
        _shell("worker", "rm /tmp/clock-shift"),
        hold_s=for_s(2.5),
        moments=0,
        modes=COMPOSE,
    )
    for direction, shift_s in (("fast", 3600), ("slow", -3600))
)
POISONS: Final = (
    poisoned("exit", "steps that call os._exit, one in ten runs"),
    poisoned("sigkill", "steps that SIGKILL their own process"),
    poisoned("sigsegv", "steps that crash the interpreter"),
    poisoned("memory", "steps that use memory until the kernel ends the process", modes=COMPOSE),
    poisoned("system_exit", "steps that raise SystemExit", is_deadly=False, poison_tries=1),
    poisoned(
        "block",
        "steps that hold the event loop for longer than the lease",
        is_deadly=False,
        poison_tries=1,
        block_s=7,
    ),
)
CLAUDE: Final = (
    claude("429", "429 with retry-after: 1", fault="rate_limit", retry_after="1"),
    claude("529", "529 overloaded", fault="overloaded"),
    claude("500", "500 api_error", fault="api_error"),
    claude("hang", "no answer, for as long as the client waits", bound_s=hang_bound, fault="hang"),
    claude("drop", "the connection is cut in mid-answer", fault="drop"),
    claude("mid-stream error", "an error event after status 200", fault="midstream_overloaded"),
    claude("garbage", "eight whole answers that are no JSON", fault="garbage", count=8, spoiled=8),
    claude("slow stream", "half a second between two pieces", chunk_delay_ms=500),
)
DEPLOYS: Final = (
    Fault(
        "rolling deploy",
        "the next release beside this one, then alone; runs of both, and a pipeline that only the new one knows",
        deploy_next,
        answers=Answers.ANY,
        modes=COMPOSE,
        pipelines=("drill", "drill_shifting", "drill_next"),
    ),
)
FAULTS: Final = (
    *PROCESSES,
    *FREEZES,
    *CUTS,
    *STORES,
    *STOPS,
    *CLOCKS,
    *POISONS,
    *CLAUDE,
    *COMPOUNDS,
    *DISKS,
    *DEPLOYS,
)
"""Every fault; each is one cell. The deploy comes last, for what is deployed stays."""
