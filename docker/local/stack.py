"""Starts, stops and shows the services as local processes."""

import hashlib
import json
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from itertools import chain
from pathlib import Path

from supervisor.states import ProcessStates  # type: ignore[import-untyped]  # has no types

from local import embedded
from local.compose_model import CODE_FOLDERS
from local.env_file import DEFAULT_PORTS, is_port_free
from local.errors import LocalError
from local.programs import Place, Program
from local.supervisor import Supervisor, log_file, render_config

ONE_SHOT_PATIENCE_S = 120.0
SHOWN_LOG_LINES = 15
PORT_NAMES = {port: name for name, port in DEFAULT_PORTS.items()}
SERVER_FOLDERS = ("docker/redis", "docker/postgres")


class LocalStack:
    """The services of one checkout as local processes."""

    def __init__(
        self, programs: Mapping[str, Program], place: Place, *, say: Callable[[str], object]
    ) -> None:
        self._programs = programs
        self._place = place
        self._say = say
        self._supervisor = Supervisor(place)

    def up(self) -> None:
        """Start what does not run, restart what has changed, and wait until all of it works.

        Raises:
            LocalError: A port is taken, or a service does not come up.
        """
        self._prepare_folders()
        config = render_config(self._programs.values(), self._place)
        if self._supervisor.is_running and self._supervisor.config != config:
            self.down()
        known = self._read_fingerprints()
        fingerprints = {
            name: program.fingerprint(self._revision(program))
            for name, program in self._programs.items()
        }
        self._write_programs(fingerprints)
        if not self._supervisor.is_running:
            self._supervisor.start_daemon(config)
        changed = [name for name, value in fingerprints.items() if known.get(name) != value]
        self._in_parallel(self._stop_after_dependents, changed)
        self._check_ports()
        self._in_parallel(self._bring_up, list(self._programs))

    def down(self, *, with_data: bool = False) -> None:
        """Stop everything, each service after those that need it."""
        if self._supervisor.is_running:
            self._in_parallel(self._stop_after_dependents, list(self._programs))
            self._supervisor.stop_daemon()
        if with_data:
            shutil.rmtree(self._place.run_dir / "data", ignore_errors=True)

    def restart(self, names: list[str]) -> None:
        """Stop and start some services."""
        self._in_parallel(self._stop_after_dependents, names)
        for name in names:
            self._supervisor.start(name)

    def run(self, name: str, command: list[str]) -> int:
        """Run another command (its own if there is none) as a service would run here; its exit status."""
        program = self._programs[name]
        command = command or program.command
        return subprocess.call(command, cwd=self._place.root, env=program.environment)  # noqa: S603 - the user's own words

    def kill(self, name: str) -> None:
        """SIGKILL a service and keep it down until the next `up`."""
        self._supervisor.kill(name)

    @property
    def watched(self) -> set[Path]:
        """What `develop.watch` names."""
        paths = chain.from_iterable(program.service.watched for program in self._programs.values())
        return {self._place.root / path for path in paths}

    def affected_by(self, changed: Iterable[str]) -> list[str]:
        """The services that watch one of the changed files."""
        files = [Path(path) for path in changed]

        def watches(program: Program) -> bool:
            folders = [self._place.root / path for path in program.service.watched]
            return any(file.is_relative_to(folder) for file in files for folder in folders)

        return [program.name for program in self._programs.values() if watches(program)]

    def describe(self, names: Sequence[str] = ()) -> list[tuple[str, str, str]]:
        """Name, state and health of each service, or of those that are named."""
        programs = [self._programs[name] for name in names or self._programs]
        with ThreadPoolExecutor(len(programs)) as threads:
            return list(threads.map(self._describe, programs))

    def _describe(self, program: Program) -> tuple[str, str, str]:
        if not self._supervisor.is_running:
            return (program.name, "stopped", "")
        info = self._supervisor.info(program.name)
        state = f"{info['statename'].lower()} {info['description']}"
        if info["state"] != ProcessStates.RUNNING or not program.probe:
            return (program.name, state, "")
        return (program.name, state, "healthy" if self._is_healthy(program) else "unhealthy")

    def _bring_up(self, program: Program, others: Mapping[str, Future[None]]) -> None:
        for need in program.service.needs:
            others[need].result()
        if not self._supervisor.is_up(program.name):
            self._supervisor.start(program.name)
        is_ready = self._is_healthy if program.service.does_restart else self._has_succeeded
        check = program.service.healthcheck
        patience_s = check.patience_s if check else ONE_SHOT_PATIENCE_S
        deadline = time.monotonic() + patience_s
        while not is_ready(program):
            if any(other.done() and other.exception() for other in others.values()):
                raise LocalError(f"{program.name} was given up")
            if time.monotonic() > deadline:
                raise self._failure(program, f"did not come up within {patience_s:.0f} s")
            time.sleep(check.start_interval_s if check else 0.1)
        self._say(f"  {program.name:<16} {'healthy' if program.probe else 'done'}")

    def _stop_after_dependents(self, program: Program, others: Mapping[str, Future[None]]) -> None:
        for name, other in others.items():
            if program.name in self._programs[name].service.needs:
                other.result()
        self._supervisor.stop(program.name)

    def _in_parallel(
        self, work: Callable[[Program, Mapping[str, Future[None]]], None], names: list[str]
    ) -> None:
        """Do the work for all, each in a thread that can wait for the others; raises the first failure."""
        done: dict[str, Future[None]] = {name: Future() for name in names}

        def run(name: str) -> None:
            try:
                work(self._programs[name], done)
            except Exception as error:
                done[name].set_exception(error)
                raise
            else:
                done[name].set_result(None)

        with ThreadPoolExecutor(max(1, len(names))) as threads:
            for future in as_completed([threads.submit(run, name) for name in names]):
                future.result()

    def _is_healthy(self, program: Program) -> bool:
        if program.probe is None or program.service.healthcheck is None:
            return True
        if not self._supervisor.is_up(program.name):
            return False
        try:
            done = subprocess.run(  # noqa: S603 - the Compose file's own health check
                program.probe,
                check=False,
                cwd=self._place.root,
                env=program.environment,
                capture_output=True,
                timeout=program.service.healthcheck.timeout_s,
            )
        except subprocess.TimeoutExpired:
            return False
        return done.returncode == 0

    def _has_succeeded(self, program: Program) -> bool:
        info = self._supervisor.info(program.name)
        if info["state"] in (ProcessStates.EXITED, ProcessStates.FATAL) and info["exitstatus"] != 0:
            raise self._failure(program, f"failed with exit status {info['exitstatus']}")
        return bool(info["state"] == ProcessStates.EXITED)

    def _failure(self, program: Program, what: str) -> LocalError:
        log = log_file(self._place, program.name)
        lines = log.read_text(errors="replace").splitlines() if log.exists() else []
        return LocalError(
            "\n".join([f"{program.name} {what}. The end of {log}:", *lines[-SHOWN_LOG_LINES:]])
        )

    def _check_ports(self) -> None:
        for program in self._programs.values():
            if self._supervisor.is_up(program.name):
                continue
            for port in program.service.ports:
                if not is_port_free(port.published, host=port.host):
                    raise LocalError(
                        f"port {port.published}, for {program.name}, is taken by another program: "
                        f"stop that one, or set {PORT_NAMES[port.target]} in .env to a free port"
                    )

    def _prepare_folders(self) -> None:
        (self._place.run_dir / "logs").mkdir(parents=True, exist_ok=True)
        for program in self._programs.values():
            self._place.scratch(program.name).mkdir(parents=True, exist_ok=True)
            self._place.data_of(program.name).mkdir(parents=True, exist_ok=True)
            self._hand_out_secrets(program)

    def _hand_out_secrets(self, program: Program) -> None:
        """Give a program the secrets that the Compose file gives it, and no other."""
        folder = self._place.secrets_of(program.name)
        folder.parent.mkdir(mode=0o700, exist_ok=True)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        # Copies, because pydantic-settings refuses a link that leads out of the folder.
        for name in program.service.secrets:
            shutil.copy(self._place.secrets_dir / name, folder / name)

    def _revision(self, program: Program) -> str:
        """Stands for the files that the program reads at its start."""
        folders = SERVER_FOLDERS if program.name in embedded.SERVERS else CODE_FOLDERS
        files = sorted(
            chain.from_iterable((self._place.root / folder).rglob("*") for folder in folders)
        )
        digest = hashlib.sha256((self._place.root / "requirements/dev.txt").read_bytes())
        for file in files:
            if file.is_file() and file.suffix != ".pyc":
                digest.update(file.read_bytes())
        return digest.hexdigest()

    @property
    def _programs_file(self) -> Path:
        return self._place.run_dir / "programs.json"

    def _read_fingerprints(self) -> dict[str, str]:
        if not self._programs_file.exists():
            return {}
        return {
            name: entry["fingerprint"]
            for name, entry in json.loads(self._programs_file.read_text()).items()
        }

    def _write_programs(self, fingerprints: Mapping[str, str]) -> None:
        entries = {
            name: {
                "command": program.command,
                "environment": program.environment,
                "fingerprint": fingerprints[name],
            }
            for name, program in self._programs.items()
        }
        self._programs_file.touch(mode=0o600)
        self._programs_file.write_text(json.dumps(entries, indent=2))
