"""supervisord is told what the Compose files say about stopping, restarting and logs."""

from configparser import RawConfigParser
from pathlib import Path

import pytest
import yaml
from local.compose_model import read_services
from local.programs import Place, Program
from local.supervisor import render_config

from tests.unit.docker.conftest import ROOT


@pytest.fixture
def config(variables: dict[str, str], tmp_path: Path) -> RawConfigParser:
    """The configuration of the real services, as supervisord parses it."""
    place = Place(root=ROOT, run_dir=tmp_path / "with space", secrets_dir=tmp_path)
    programs = [
        Program(service, command=[], environment={}, probe=None)
        for service in read_services(ROOT, variables).values()
    ]
    parser = RawConfigParser()
    parser.read_string(render_config(programs, place))
    return parser


def test_a_service_is_started_again_whenever_it_ends(config: RawConfigParser) -> None:
    """As `restart: unless-stopped` does."""
    assert "true" == config["program:worker"]["autorestart"]


def test_a_one_shot_service_is_not(config: RawConfigParser) -> None:
    """As `restart: no` does; it may end at once."""
    assert "false" == config["program:migrate"]["autorestart"]
    assert "0" == config["program:migrate"]["startsecs"]


def test_services_stop_as_in_containers(config: RawConfigParser) -> None:
    """The same signal and the same time to obey it."""
    deployed = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
    for name, signal in (("api", "TERM"), ("worker", "TERM"), ("postgres", "INT")):
        section = config[f"program:{name}"]
        stop = (section["stopsignal"], f"{section['stopwaitsecs']}s")
        assert (signal, deployed[name]["stop_grace_period"]) == stop


def test_logs_are_rotated_as_in_containers(config: RawConfigParser) -> None:
    """Three files of 10 MB."""
    section = config["program:api"]

    assert ("10MB", "2") == (section["stdout_logfile_maxbytes"], section["stdout_logfile_backups"])


def test_paths_with_spaces_are_one_word(config: RawConfigParser, tmp_path: Path) -> None:
    """A checkout may lie anywhere."""
    assert f"'{tmp_path}/with space/programs.json' api" in config["program:api"]["command"]
