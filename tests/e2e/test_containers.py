"""What holds in containers only."""

import json
import re

import pytest

from tests.e2e.conftest import Stack

pytestmark = pytest.mark.compose


def _inspect(stack: Stack) -> list[dict[str, object]]:
    return list(json.loads(stack.run("docker inspect $(docker compose ps -q)")))


def test_no_container_holds_a_secret_in_its_environment(stack: Stack) -> None:
    """What `docker inspect` shows gives no access."""
    shown = json.dumps(_inspect(stack))

    assert "psk_" not in shown
    assert not re.search(r'"(REDIS|POSTGRES|FLOWER)_PASSWORD=', shown)


def test_every_container_is_hardened(stack: Stack) -> None:
    """No root, no capabilities, a read-only root and bounds on memory and processes, as really started."""
    for container in _inspect(stack):
        host = container["HostConfig"]
        config = container["Config"]
        assert isinstance(host, dict)
        assert isinstance(config, dict)
        assert config["User"].split(":")[0].isdigit(), container["Name"]
        assert config["User"].split(":")[0] != "0", container["Name"]
        assert host["ReadonlyRootfs"], container["Name"]
        assert host["CapDrop"] == ["ALL"], container["Name"]
        assert "no-new-privileges:true" in host["SecurityOpt"], container["Name"]
        assert host["Memory"] > 0, container["Name"]
        assert host["PidsLimit"] > 0, container["Name"]
