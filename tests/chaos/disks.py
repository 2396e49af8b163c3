"""Full disks: a server on a small file system, filled to the last byte. Containers only."""

from typing import Final

from tests.chaos.faults import COMPOSE, Action, Answers, Fault, for_s
from tests.chaos.scene import Scene

FILES: Final = {"postgres": "/var/lib/postgresql/data/fill", "redis": "/data/fill"}
TABLES: Final = "SELECT count(*) AS n FROM api_keys"


def fill(service: str) -> Action:
    """Leave no byte free."""
    command = f"dd if=/dev/zero of={FILES[service]} bs=16k 2>/dev/null; true"
    return lambda scene: _shell(scene, service, command)


def free(service: str) -> Action:
    """Make room again."""
    return lambda scene: _shell(scene, service, f"rm {FILES[service]}")


def _shell(scene: Scene, service: str, command: str) -> None:
    scene.stack.shell("disk-holder", command.replace(FILES[service], f"/{service}/fill"))


def _on_small_disk(service: str) -> Action:
    def act(scene: Scene) -> None:
        scene.stack.use_small_disk(service)
        scene.until(TABLES, at_least=1)

    return act


def _on_usual_disk(scene: Scene) -> None:
    scene.stack.use_usual_disks()
    scene.until(TABLES, at_least=1)


def full_disk(service: str, name: str, **values) -> Fault:
    """One server without room to write."""
    return Fault(
        f"{name}'s disk full",
        f"no byte is left on the file system of {name}, then there is room again",
        fill(service),
        free(service),
        prepare=_on_small_disk(service),
        restore=_on_usual_disk,
        modes=COMPOSE,
        is_full_only=True,
        **{"hold_s": for_s(3.0)} | values,
    )


DISKS: Final = (
    full_disk("redis", "Redis"),
    full_disk("postgres", "PostgreSQL", answers=Answers.REFUSE),
)
