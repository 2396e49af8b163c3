"""The manifests for Swarm and Kubernetes start what compose.yaml starts, as fenced in as there."""

import re
import shlex
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

ROOT = Path(__file__).parents[2]
KUBERNETES = ROOT / "docker/kubernetes"
KUBERNETES_VERSIONS = ("1.30.0", "1.37.0")
"""The oldest that has all that the manifests use, and the newest that the validator knows."""
NODE_ADDRESSES = {"REDIS_HOST", "REDIS_PORT", "POSTGRES_HOST", "POSTGRES_PORT"}
"""Where Compose's own servers are; elsewhere the deployment says that."""
DEFAULT_PATTERN = re.compile(r"\$\{\w+:-([^}]*)\}")
UNITS = {"m": 2**20, "M": 2**20, "Mi": 2**20, "g": 2**30, "G": 2**30, "Gi": 2**30}


def _compose() -> dict[str, dict[str, Any]]:
    services = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
    return {name: services[name] for name in services if name not in {"postgres", "redis"}}


def _swarm() -> dict[str, dict[str, Any]]:
    return dict(yaml.safe_load((ROOT / "docker/swarm/stack.yaml").read_text())["services"])


def _resources() -> list[dict[str, Any]]:
    kustomization = yaml.safe_load((KUBERNETES / "kustomization.yaml").read_text())
    return [
        resource
        for name in kustomization["resources"]
        for resource in yaml.safe_load_all((KUBERNETES / name).read_text())
    ]


def _settings() -> dict[str, str]:
    lines = (KUBERNETES / "settings.env").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def _of_kind(*kinds: str) -> dict[str, dict[str, Any]]:
    found = [resource for resource in _resources() if resource["kind"] in kinds]
    return {resource["metadata"]["name"]: resource for resource in found}


def _pod(name: str) -> dict[str, Any]:
    return dict(_of_kind("Deployment", "Job")[name]["spec"]["template"]["spec"])


def _container(name: str) -> dict[str, Any]:
    (container,) = _pod(name)["containers"]
    return dict(container)


def _expanded(command: list[str]) -> list[str]:
    """A command with Compose's defaults and Kubernetes' settings put in."""
    settings = _settings()
    defaults = [DEFAULT_PATTERN.sub(r"\1", word) for word in command]
    return [re.sub(r"\$\((\w+)\)", lambda m: settings[m[1]], word) for word in defaults]


def _bytes(size: str) -> int:
    number, unit = re.fullmatch(r"(\d+)(\w+)", size).groups()  # type: ignore[union-attr]  # a mismatch fails the test
    return int(number) * UNITS[unit]


def _seconds(time: str) -> int:
    return int(time.removesuffix("s"))


SERVICES = _compose()
every_service = pytest.mark.parametrize("name", SERVICES)
long_running = pytest.mark.parametrize("name", [name for name in SERVICES if name != "migrate"])


@pytest.mark.parametrize("version", KUBERNETES_VERSIONS)
def test_manifests_fit_the_schemas_of_kubernetes(version: str) -> None:
    """No field is misspelt or of the wrong type; what is unknown is an error."""
    for resource in _resources():
        kubernetes_validate.validate(resource, version, strict=True)


def test_kustomization_lists_every_file() -> None:
    """What lies in the folder is deployed."""
    listed = yaml.safe_load((KUBERNETES / "kustomization.yaml").read_text())["resources"]

    files = {path.name for path in KUBERNETES.glob("*.yaml")} - {"kustomization.yaml"}
    assert files == set(listed)


def test_every_service_is_in_every_manifest() -> None:
    """No more and no less than Compose starts, the servers aside."""
    assert set(SERVICES) == set(_swarm())
    assert set(SERVICES) == set(_of_kind("Deployment", "Job"))


@every_service
def test_commands_are_those_of_compose(name: str) -> None:
    """Word for word, once the defaults are put in."""
    expected = _expanded(SERVICES[name]["command"])

    assert expected == _expanded(_swarm()[name]["command"])
    assert expected == _expanded(_container(name)["command"])


@every_service
def test_variables_are_those_of_compose(name: str) -> None:
    """The same names and values; only the servers' addresses are the deployment's."""
    expected = {
        variable: DEFAULT_PATTERN.sub("", value)
        for variable, value in SERVICES[name].get("environment", {}).items()
        if variable not in NODE_ADDRESSES
    }
    swarm = {
        variable: DEFAULT_PATTERN.sub("", value)
        for variable, value in _swarm()[name].get("environment", {}).items()
    }
    kubernetes = {entry["name"]: entry["value"] for entry in _container(name).get("env", [])}

    assert expected == swarm
    assert {**expected, "PENSTOCK_ENV": ""} == {**kubernetes, "PENSTOCK_ENV": ""}
    assert {"PENSTOCK_ENV", "REDIS_HOST", "POSTGRES_HOST"} <= set(_settings())


@every_service
def test_secrets_are_those_of_compose(name: str) -> None:
    """Files in the same folder, and no more of them; none in an environment."""
    pod = _pod(name)
    (secrets,) = (volume["secret"] for volume in pod["volumes"] if "secret" in volume)
    mounts = {mount["name"]: mount["mountPath"] for mount in _container(name)["volumeMounts"]}
    expected = set(SERVICES[name]["secrets"])

    assert expected == set(_swarm()[name]["secrets"])
    assert expected == {item["key"] for item in secrets["items"]}
    assert expected == {item["path"] for item in secrets["items"]}
    assert "/run/secrets" == mounts["secrets"]


@every_service
def test_there_is_as_much_time_to_stop_as_in_compose(name: str) -> None:
    """Workers hand back their runs, and the API ends its requests, before they are killed."""
    stop_s = _seconds(SERVICES[name]["stop_grace_period"])
    hook_s = _container(name).get("lifecycle", {}).get("preStop", {}).get("sleep", {})

    assert stop_s == _seconds(_swarm()[name]["stop_grace_period"])
    assert stop_s + hook_s.get("seconds", 0) <= _pod(name)["terminationGracePeriodSeconds"]


@every_service
def test_services_are_fenced_in_as_in_compose(name: str) -> None:
    """No root, no capabilities, no new privileges, a read-only root, the same memory; no cluster credentials."""
    swarm, pod, container = _swarm()[name], _pod(name), _container(name)
    user, group = map(int, SERVICES[name]["user"].split(":"))
    memory = _bytes(SERVICES[name]["mem_limit"])

    assert {"init", "read_only", "user", "cap_drop"} <= swarm.keys()
    assert all(
        SERVICES[name][key] == swarm[key] for key in ("init", "read_only", "user", "cap_drop")
    )
    assert memory == _bytes(swarm["deploy"]["resources"]["limits"]["memory"])
    assert SERVICES[name]["pids_limit"] == swarm["deploy"]["resources"]["limits"]["pids"]
    assert {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    } == container["securityContext"]
    assert (True, user, group) == tuple(
        pod["securityContext"][key] for key in ("runAsNonRoot", "runAsUser", "runAsGroup")
    )
    assert memory == _bytes(container["resources"]["limits"]["memory"])
    assert pod["automountServiceAccountToken"] is False
    assert pod["shareProcessNamespace"] is True


@long_running
def test_probes_ask_what_compose_asks(name: str) -> None:
    """A command is the same; a question by HTTP goes to the same path and port."""
    health = SERVICES[name]["healthcheck"]
    container = _container(name)
    swarm = dict(_swarm()[name]["healthcheck"])
    probes = [container[key] for key in container if key.endswith("Probe")]

    assert {key: health[key] for key in swarm} == swarm
    asked = _question(health["test"])
    assert asked in [_question_of(probe, container) for probe in probes]
    assert health["retries"] == container["livenessProbe"]["failureThreshold"]
    assert _seconds(health["interval"]) == container["livenessProbe"]["periodSeconds"]
    if "startupProbe" in container:
        startup = container["startupProbe"]
        patience_s = _seconds(health["start_period"]) + health["retries"] * _seconds(
            health["interval"]
        )
        assert patience_s == startup["periodSeconds"] * startup["failureThreshold"]


def _question(test: list[str]) -> str:
    """What a health check of Compose asks: port and path, or the command."""
    if url := re.search(r"http://127\.0\.0\.1(:\d+/\w+)", " ".join(test)):
        return url[1]
    words = test[1:] if test[0] == "CMD" else ["sh", "-c", test[1]]
    return shlex.join(words).replace("$$", "$")


def _question_of(probe: dict[str, Any], container: dict[str, Any]) -> str:
    if "exec" in probe:
        return shlex.join(probe["exec"]["command"])
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    return f":{ports[probe['httpGet']['port']]}{probe['httpGet']['path']}"


def test_a_database_that_is_away_restarts_no_api() -> None:
    """Whether it is ready depends on PostgreSQL; whether it lives does not."""
    container = _container("api")

    assert "/readyz" == container["readinessProbe"]["httpGet"]["path"]
    assert "/livez" == container["livenessProbe"]["httpGet"]["path"]


def test_there_is_one_beat() -> None:
    """Also while it is replaced: the old one stops first."""
    spec = _of_kind("Deployment")["beat"]["spec"]
    swarm = _swarm()["beat"]["deploy"]

    assert (1, "Recreate") == (spec["replicas"], spec["strategy"]["type"])
    assert (1, "stop-first") == (swarm["replicas"], swarm["update_config"]["order"])


def test_selectors_find_their_pods() -> None:
    """Deployments, Services, budgets and policies name pods that there are."""
    labels = {
        name: resource["spec"]["template"]["metadata"]["labels"]
        for name, resource in _of_kind("Deployment", "Job").items()
    }
    for resource in _resources():
        spec = resource.get("spec", {})
        selector = spec.get("selector", spec.get("podSelector"))
        if selector:
            wanted = selector.get("matchLabels", selector)
            assert wanted == labels[resource["metadata"]["name"]], resource["metadata"]["name"]


def test_manifests_hold_no_secret() -> None:
    """Secrets are made where the stack is deployed, from files that are in no repository."""
    assert not _of_kind("Secret")
    assert not [name for name in _settings() if re.search("PASSWORD|TOKEN|_KEY$", name)]
