"""A stack of its own for a test run: own ports, secrets, data and names, so that a running stack is not touched."""

import hashlib
import json
import os
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

from local.env_file import DEFAULT_PORTS, derive_files, read_env_file, write_env_file

SIMULATED = """
ANTHROPIC_SIMULATOR_URL=http://simulator:8080
RESEARCH_ARXIV_URL=http://simulator:8080/arxiv/api/query
RESEARCH_ALLOWED_PRIVATE_HOSTS=["simulator:8080"]
"""
"""What compose.override.yaml sets in development; a Compose trial runs the deployable file with the simulator added."""
COMPOSE_FILES = ("compose.yaml", "docker/compose.trial.yaml")
TREE_COMPOSE_FILE = "docker/compose.chaos.yaml"


class Trial:
    """One stack for one test run, in a folder of its own below `.run`."""

    def __init__(
        self, mode: str, *, name: str, root: Path, tree: Path | None, shell: Mapping[str, str]
    ) -> None:
        """Describe a stack; nothing is written before prepare().

        Args:
            mode: compose or local.
            name: Tells it from other trials of the checkout.
            root: The checkout.
            tree: What runs instead of the checkout's own config and services.
            shell: The environment that it is started from.
        """
        self.mode = mode
        self.root = root
        self.folder = root / ".run" / f"trial-{name}"
        checkout = hashlib.sha256(str(root).encode()).hexdigest()[:8]
        self._project = f"penstock-test-{checkout}" + ("" if name == mode else f"-{name}")
        self._tree = tree
        self._env_file = self.folder / ".env"
        self._shell = {name: value for name, value in shell.items() if name not in DEFAULT_PORTS}

    @property
    def environment(self) -> dict[str, str]:
        """What its commands and the tests run with: Compose's own variables, then PENSTOCK_E2E_*."""
        env = read_env_file(self._env_file)
        simulator = f"http://127.0.0.1:{env['SIMULATOR_PUBLISH_PORT']}"
        in_tree = {"PENSTOCK_TREE": str(self._tree), "PENSTOCK_E2E_TREE": str(self._tree)}
        return self._shell | {
            "COMPOSE_PROJECT_NAME": self._project,
            "COMPOSE_FILE": os.pathsep.join(
                (*COMPOSE_FILES, *([TREE_COMPOSE_FILE] if self._tree else []))
            ),
            "COMPOSE_ENV_FILES": str(self._env_file),
            **(in_tree if self._tree else {}),
            "PENSTOCK_E2E_MODE": self.mode,
            "PENSTOCK_E2E_ROOT": str(self.root),
            "PENSTOCK_E2E_RUN_DIR": str(self.folder),
            "PENSTOCK_E2E_ENV_FILE": str(self._env_file),
            "PENSTOCK_E2E_PROJECT": self._project,
            "PENSTOCK_E2E_URL": f"http://127.0.0.1:{env['API_PORT']}",
            "PENSTOCK_E2E_KEY": env["API_INITIAL_KEY"],
            "PENSTOCK_E2E_FLOWER_URL": f"http://127.0.0.1:{env['FLOWER_PORT']}",
            "PENSTOCK_E2E_FLOWER_USER": "penstock",
            "PENSTOCK_E2E_FLOWER_PASSWORD": env["FLOWER_PASSWORD"],
            "PENSTOCK_E2E_SIMULATOR_URL": simulator,
            "PENSTOCK_E2E_SAMPLES_URL": f"{'http://simulator:8080' if self.mode == 'compose' else simulator}/samples",
            "PENSTOCK_E2E_KILL_WORKER": shlex.join(self.command("kill-worker")),
            "PENSTOCK_E2E_START_WORKER": shlex.join(self.command("up")),
            "PENSTOCK_E2E_LOCAL": shlex.join(self._local),
        }

    @property
    def own_environment(self) -> dict[str, str]:
        """What tells its environment from that of another trial."""
        own = ("COMPOSE_", "PENSTOCK_")
        return {name: text for name, text in self.environment.items() if name.startswith(own)}

    @property
    def _local(self) -> list[str]:
        """The local stack's own command line, without its verb."""
        return [
            sys.executable,
            "-m",
            "local",
            "--root",
            str(self._tree or self.root),
            "--env-file",
            str(self._env_file),
            "--run-dir",
            str(self.folder),
        ]

    def command(self, verb: str) -> list[str]:
        """The command that does it to this stack: build, up, kill-worker, logs or down."""
        compose = ["docker", "compose", "--progress", "quiet"]
        local = self._local
        return {
            "compose": {
                "build": [*compose, "build", "--quiet", "migrate"],
                "up": [*compose, "up", "--detach", "--wait", "--quiet-pull"],
                "kill-worker": [*compose, "kill", "--signal", "KILL", "worker"],
                "logs": [*compose, "logs", "--no-color", "--timestamps"],
                "down": [*compose, "down", "--volumes", "--remove-orphans"],
            },
            "local": {
                "build": ["true"],
                "up": [*local, "up"],
                "kill-worker": [*local, "kill", "worker"],
                "logs": [
                    "tail",
                    "-n",
                    "+1",
                    *sorted(map(str, (self.folder / "logs").glob("*.log"))),
                ],
                "down": [*local, "down", "--volumes"],
            },
        }[self.mode][verb]

    def prepare(self, settings: Iterable[str]) -> None:
        """Remove what an interrupted trial left, and write fresh secrets, free ports and the settings."""
        if self._env_file.exists():
            self.do("down")
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        secrets_dir = self.folder / ".secrets"
        write_env_file(
            self._env_file, env="staging", secrets_dir=str(secrets_dir), ports=_free_ports()
        )
        with self._env_file.open("a") as file:
            file.write(SIMULATED if self.mode == "compose" else "")
            file.writelines(f"{line}\n" for line in settings)
        derive_files(read_env_file(self._env_file), secrets_dir)

    def do(self, verb: str) -> None:
        """Carry out one of its commands."""
        subprocess.run(self.command(verb), check=True, cwd=self.root, env=self.environment)  # noqa: S603 - our own words

    def start(self) -> None:
        """Build what it needs, and start it."""
        self.do("build")
        self.do("up")

    def save_logs(self) -> Path:
        """Write every log of the stack into one file."""
        path = self.folder.with_suffix(".log")
        with path.open("wb") as file:
            subprocess.run(  # noqa: S603 - our own words
                self.command("logs"), check=False, cwd=self.root, env=self.environment, stdout=file
            )
        return path


def run_trials(trials: Sequence[Trial], command: list[str], *, settings: Iterable[str] = ()) -> int:
    """Run a command, such as pytest, against fresh stacks; the command's exit status.

    It gets the first one's environment, and in PENSTOCK_E2E_STACKS what to put in its place for each of them.
    """
    lines = list(settings)
    for trial in trials:
        trial.prepare(lines)
    environment = trials[0].environment | {
        "PENSTOCK_E2E_STACKS": json.dumps([trial.own_environment for trial in trials])
    }
    with ThreadPoolExecutor(len(trials)) as threads, ExitStack() as cleanup:
        cleanup.callback(lambda: list(threads.map(lambda trial: trial.do("down"), trials)))
        status = 1
        try:
            list(threads.map(Trial.start, trials))
            status = subprocess.call(command, cwd=trials[0].root, env=environment)  # noqa: S603 - from the Makefile
        except subprocess.CalledProcessError as error:
            sys.stderr.write(f"{error}\n")
        finally:
            if status:
                logs = " ".join(str(trial.save_logs()) for trial in trials)
                sys.stderr.write(f"the services' logs: {logs}\n")
    return status


def _free_ports() -> dict[str, int]:
    sockets = {name: socket.create_server(("127.0.0.1", 0)) for name in DEFAULT_PORTS}
    ports = {name: int(listener.getsockname()[1]) for name, listener in sockets.items()}
    for listener in sockets.values():
        listener.close()
    return ports
