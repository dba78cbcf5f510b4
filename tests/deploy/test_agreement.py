"""What the manifests assume of the server is so: probes, settings, metrics, times."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.deploy.manifests import (
    DEPLOY,
    ROOT,
    Document,
    documents,
    metric_names,
    patched,
    pods,
    resources,
    server_of,
)
from tests.e2e.conftest import RunningServer, serve
from trtllm_openai.api.auth import make_key
from trtllm_openai.config import Section, Settings
from trtllm_openai.config.environment import ENV_PREFIX

END_S = 20
"""Seconds for a server to end after `drain_timeout`: 10 for its last responses, 10 for its runners."""


def servers() -> list[tuple[str, Document, Document]]:
    """Where it is from, the pod template and the server's container."""
    return [
        (name, template, container)
        for name, document in patched()
        for template in pods(document)
        if (container := server_of(template)) is not None
    ]


def file_settings(name: str) -> dict[str, Any]:
    """Settings of the config.yaml of a folder of deploy/."""
    folder = "lws" if name.startswith("lws") else "base"
    loaded: dict[str, Any] = yaml.safe_load((DEPLOY / folder / "config.yaml").read_text())
    return loaded


def settings_of(name: str, container: Document) -> Settings:
    """The server's settings, from the manifest's file and environment. Raises if one is none."""
    values: dict[str, Any] = file_settings(name)
    known = {field.upper() for field in Settings.model_fields}
    for variable in container["env"]:
        if not variable["name"].startswith(ENV_PREFIX):
            continue
        key = variable["name"].removeprefix(ENV_PREFIX)
        section, _, inner = key.lower().partition("__")
        assert section.upper() in known, key
        value = variable["value"]
        if inner:
            default = Settings.model_fields[section].default
            assert isinstance(default, Section)
            assert inner in type(default).model_fields, key
            values.setdefault(section, {})[inner] = value
        else:
            values[section] = value
    return Settings(**values)


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    key, line = make_key("ops", "admin")
    file = tmp_path_factory.mktemp("keys") / "keys"
    file.write_text(line + "\n")
    return file, key


@pytest.fixture(scope="module")
def server(keys: tuple[Path, str]) -> Iterator[RunningServer]:
    """A server with API keys, started by the arguments of the manifest and its configuration file."""
    flags = ("--config", str(DEPLOY / "base" / "config.yaml"), "--host", "127.0.0.1")
    with serve(*flags, "--engine", "synthetic", "--api-keys-file", str(keys[0])) as running:
        running.key = keys[1]
        yield running


@pytest.mark.parametrize(("name", "template", "container"), servers())
def test_settings_are_real(name: str, template: Document, container: Document) -> None:
    command, flag, path = container["args"]
    assert (command, flag) == ("serve", "--config")
    assert any(path.startswith(mount["mountPath"]) for mount in container["volumeMounts"])
    settings = settings_of(name, container)
    assert settings.host == "0.0.0.0"
    assert {"name": "http", "containerPort": settings.port} in container["ports"]
    if settings.engine == "tensorrt_llm" and settings.tensorrt_llm.launch == "leader":
        command = shlex.split(settings.tensorrt_llm.mpi_command.format(world=16))
        assert command[0] == "mpirun"
        assert command[command.index("-n") + 1] == "16"
        hosts = command[command.index("--host") + 1].split(",")
        assert sum(int(host.rpartition(":")[2]) for host in hosts) == 16
        assert "-p 2222" in command[command.index("plm_rsh_args") + 1]


@pytest.mark.parametrize(("name", "template", "container"), servers())
def test_a_pod_has_time_to_drain(name: str, template: Document, container: Document) -> None:
    pause = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    settings = settings_of(name, container)
    grace = template["spec"]["terminationGracePeriodSeconds"]
    assert pause > container["readinessProbe"]["periodSeconds"]
    assert grace >= pause + settings.drain_timeout + END_S
    startup = container["startupProbe"]
    assert startup["periodSeconds"] * startup["failureThreshold"] >= settings.load_timeout


def test_probes_need_no_key_and_answer(server: RunningServer) -> None:
    asked = set()
    for _, _, container in servers():
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            action = container[probe]["httpGet"]
            assert action["port"] == "http"
            asked.add(action["path"])
    assert asked == {"/health/startup", "/health/ready", "/health/live"}
    for path in asked:
        assert httpx.get(server.url + path, timeout=10).status_code == 200
    assert httpx.get(server.url + "/metrics", timeout=10).status_code == 401


@pytest.fixture(scope="module")
def scrape(server: RunningServer) -> str:
    headers = {"authorization": f"Bearer {server.key}"}
    return httpx.get(f"{server.url}/metrics", headers=headers, timeout=10).raise_for_status().text


def test_metrics_that_are_asked_for_are_exposed(scrape: str) -> None:
    exposed = set(re.findall(r"^([\w:]+?)(?:\{.*\})? \S+$", scrape, re.MULTILINE))
    exposed |= {line.split()[2] for line in scrape.splitlines() if line.startswith("# TYPE")}
    text = "".join(
        file.read_text()
        for file in DEPLOY.rglob("*.yaml")
        if "components" in file.parts and "kustom" not in file.name
    )
    derived = {
        rule["name"]["as"]
        for rule in documents(DEPLOY / "components" / "hpa" / "adapter-rules.yaml")[0]["rules"]["custom"]
    }
    asked = metric_names(text)
    assert len(asked) > 8
    assert asked - derived <= exposed
    (autoscaler,) = documents(DEPLOY / "components" / "hpa" / "hpa.yaml")
    assert {one["pods"]["metric"]["name"] for one in autoscaler["spec"]["metrics"]} == derived


def test_an_endpoint_picker_finds_what_it_reads_without_a_key(keys: tuple[Path, str]) -> None:
    """With the setting of the component inference-gateway; the names are llm-d's defaults for vLLM."""
    (patch,) = documents(DEPLOY / "components" / "inference-gateway" / "patch.yaml")
    container = server_of(pods(patch)[0])
    assert container is not None
    env = {one["name"]: one["value"] for one in container["env"]}
    with serve("--engine", "synthetic", "--api-keys-file", str(keys[0]), env=env) as running:
        text = httpx.get(f"{running.url}/metrics", timeout=10).raise_for_status().text
    for name in ("num_requests_waiting", "num_requests_running", "kv_cache_usage_perc"):
        assert re.search(rf"^vllm:{name}{{.*}} 0.0$", text, re.MULTILINE)


def test_the_pool_the_route_and_the_picker_name_each_other() -> None:
    objects = {(one["kind"], one["metadata"]["name"]): one for _, one in resources()}
    pool = objects["InferencePool", "trtllm-openai"]["spec"]
    (rule,) = objects["HTTPRoute", "trtllm-openai"]["spec"]["rules"]
    assert [(one["kind"], one["name"]) for one in rule["backendRefs"]] == [("InferencePool", "trtllm-openai")]
    service = objects["Service", pool["endpointPickerRef"]["name"]]["spec"]
    assert pool["endpointPickerRef"]["port"]["number"] in {port["port"] for port in service["ports"]}
    server = objects["Deployment", "trtllm-openai"]["spec"]["template"]
    assert pool["selector"]["matchLabels"] == server["metadata"]["labels"]
    assert [port["number"] for port in pool["targetPorts"]] == [Settings().port]
    picker = objects["Deployment", "trtllm-openai-picker"]["spec"]["template"]["spec"]["containers"][0]
    assert "--pool-name=trtllm-openai" in picker["args"]
    config = documents(DEPLOY / "components" / "inference-gateway" / "picker-config.yaml")[0]
    declared = {plugin["type"] for plugin in config["plugins"]}
    used = {plugin["pluginRef"] for profile in config["schedulingProfiles"] for plugin in profile["plugins"]}
    assert used == declared


def test_alert_rules_are_those_of_docker() -> None:
    (rule,) = documents(DEPLOY / "components" / "monitoring" / "prometheusrule.yaml")
    assert rule["spec"] == documents(ROOT / "docker" / "alerts.yml")[0]


def test_the_image_has_the_user_of_the_manifests() -> None:
    users = {template["spec"]["securityContext"]["runAsUser"] for _, template, _ in servers()}
    made = re.findall(r"useradd .*--uid (\d+) server.*\nUSER (\d+)", (ROOT / "Dockerfile").read_text())
    assert [tuple(map(int, pair)) for pair in made] == [(*users, *users)] * 2


def test_topics_of_events_follow_llm_ds_form() -> None:
    (patch,) = documents(DEPLOY / "components" / "kv-events" / "patch.yaml")
    container = server_of(pods(patch)[0])
    assert container is not None
    env = {one["name"]: one.get("value", "") for one in container["env"]}
    assert re.fullmatch(r"kv@\$\(POD_IP\)@[^@]+", env["TRTLLM_OPENAI_KV_EVENTS__TOPIC"])
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert env["TRTLLM_OPENAI_KV_EVENTS__ENDPOINT"] == f"tcp://*:{ports['kv-events']}"
    assert env["TRTLLM_OPENAI_KV_EVENTS__REPLAY_ENDPOINT"] == f"tcp://*:{ports['kv-replay']}"
    assert list(env) == sorted(env, key=lambda name: name != "POD_IP"), "defined before it is used"
