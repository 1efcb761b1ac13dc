"""The compose file and the image: whole, closed to the outside, without a secret, and what offbeat really takes."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.commands import assert_accepted
from tests.deploy.files import PROMETHEUS, ROOT, parsed
from worker.configuration import configure

COMPOSE = parsed(ROOT / "docker-compose.yml")
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
ONE_SHOT = {"topics", "history", "train"}
OURS = sorted(name for name, service in SERVICES.items() if service["image"] == "offbeat")
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")


def words_of(service: dict[str, Any]) -> list[str]:
    """What the service gives to `offbeat`, out of a shell line where it has one."""
    command: list[str] = service["command"]
    return command[0].split(" || offbeat ")[1].split() if "entrypoint" in service else command


@pytest.mark.parametrize("name", OURS)
def test_offbeat_takes_the_command_line_of_each_of_its_services(name: str) -> None:
    environment = {**_image_environment(), **SERVICES[name].get("environment", {})}

    assert_accepted(words_of(SERVICES[name]), {key: str(value) for key, value in environment.items()})


def test_the_worker_listens_where_prometheus_looks_for_it() -> None:
    environment = {**_image_environment(), **SERVICES["worker"]["environment"]}
    settings = configure([], environment).settings
    jobs = {job["job_name"]: job for job in parsed(PROMETHEUS / "prometheus.yml")["scrape_configs"]}

    assert settings.http.host == "0.0.0.0"
    assert jobs["offbeat"]["static_configs"][0]["targets"] == [f"worker:{settings.http.port}"]
    assert f"'OFFBEAT_HTTP__PORT', '{settings.http.port}'" in DOCKERFILE


def test_every_topic_that_the_worker_uses_is_created() -> None:
    settings = configure([], {**_image_environment(), **SERVICES["worker"]["environment"]}).settings
    created = re.findall(r"create --topic (\S+)", SERVICES["topics"]["command"][0])

    assert created == [*settings.input_topics, settings.alerts_to, settings.dead_letters_to, settings.state_to]


def test_the_topic_of_histories_is_compacted_and_has_a_partition_for_each_of_the_input() -> None:
    topics = dict(re.findall(r"create --topic (\S+) (.+)", SERVICES["topics"]["command"][0]))

    assert topics["transactions.state"] == f"{topics['transactions']} --config cleanup.policy=compact"


def test_the_trainer_reads_what_the_history_writes() -> None:
    history, train = words_of(SERVICES["history"]), words_of(SERVICES["train"])
    stream = train[train.index("--stream") + 1]
    source = next(volume.split(":")[0] for volume in SERVICES["train"]["volumes"] if volume.split(":")[1] == stream)

    assert history[1] == train[1]
    assert tomllib.loads((ROOT / source).read_text(encoding="utf-8"))["name"] == "transactions"
    assert "/models/transactions/aliases.json" in SERVICES["train"]["command"][0]


def test_every_port_is_bound_to_loopback() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]

    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_there_is_no_secret() -> None:
    named_so = re.compile(r"(?i)passw|secret|token|api_?key|private|credential")
    variables = {name: value for service in SERVICES.values() for name, value in service.get("environment", {}).items()}
    variables |= dict(re.findall(r"(\w+)=(\S+)", DOCKERFILE))

    assert [name for name in variables if named_so.search(name)] == []
    assert [name for name, value in variables.items() if re.search(r"//[^/@\s]+:[^/@\s]+@", str(value))] == []


def test_every_image_has_a_version() -> None:
    images = {service["image"] for service in SERVICES.values()} - {"offbeat"}

    assert all(re.search(r":v?\d+\.\d+\.\d+$", image) for image in images), images


def test_what_runs_on_has_a_health_check_and_comes_back() -> None:
    for name, service in SERVICES.items():
        if name in ONE_SHOT:
            assert "restart" not in service, name
        else:
            assert service["restart"] == "unless-stopped", name
            assert "healthcheck" in service or (service["image"] == "offbeat" and "HEALTHCHECK" in DOCKERFILE), name


def test_what_a_service_waits_for_can_happen() -> None:
    for name, service in SERVICES.items():
        for needed, how in service.get("depends_on", {}).items():
            wanted = "service_completed_successfully" if needed in ONE_SHOT else "service_healthy"
            assert how["condition"] == wanted, f"{name} waits for {needed}"


def test_every_volume_is_named_or_a_file_of_this_repository() -> None:
    used = {volume.split(":")[0] for service in SERVICES.values() for volume in service.get("volumes", [])}
    named = {volume for volume in used if not volume.startswith("./")}

    assert named == set(COMPOSE["volumes"])
    assert all((ROOT / volume).exists() for volume in used - named)


@pytest.mark.parametrize("name", OURS)
def test_our_containers_can_write_nowhere_but_in_their_volumes(name: str) -> None:
    service = SERVICES[name]

    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]


def test_the_image_runs_as_nobody_in_particular() -> None:
    assert re.findall(r"^USER (.+)$", DOCKERFILE, re.MULTILINE) == ["10001:10001"]


def test_the_image_holds_every_package_that_is_installed() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    rooms = {package.split(".")[0] for package in project["packages"]}
    wanted = rooms | {f"{module}.py" for module in project["py-modules"]}
    copied = {
        word for line in re.findall(r"^COPY (?!--)(.+) \./?\S*$", DOCKERFILE, re.MULTILINE) for word in line.split()
    }
    let_in = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}

    assert wanted <= copied
    assert copied <= let_in
    assert all((ROOT / name).exists() for name in let_in)


def test_every_yaml_file_of_deploy_can_be_read() -> None:
    files = [path for path in (ROOT / "deploy").rglob("*") if path.suffix in (".yml", ".yaml")]

    assert files
    for path in files:
        yaml.safe_load(Path(path).read_text(encoding="utf-8"))


def _image_environment() -> dict[str, str]:
    """The variables of ours that the image sets."""
    return dict(re.findall(r"^\s*(?:ENV )?(OFFBEAT_\w+)=(\S+)", DOCKERFILE, re.MULTILINE))
