"""The image's Dockerfile and the Compose files: what linters and Compose itself say, and that their parts agree."""

import ipaddress
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import attrs
import pytest

from trio_stt.settings import Settings, load

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
NGINX = (ROOT / "deploy/compose/nginx.conf").read_text(encoding="utf-8")
PROGRAMS = Path(sys.executable).parent

SETTINGS = {field.name.upper() for field in attrs.fields(Settings)}
KEYS = "k:" + 40 * "x"


# ── the image ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_hadolint_finds_nothing():
    found = subprocess.run([PROGRAMS / "hadolint", ROOT / "Dockerfile"], capture_output=True, text=True)
    assert (found.returncode, found.stdout, found.stderr) == (0, "", "")


def copied(dockerfile: str) -> list[str]:
    """What is copied from this folder."""
    lines = re.findall(r"^COPY (?!--from)(.+) \S+$", dockerfile, re.MULTILINE)
    return [source for line in lines for source in line.split()]


def test_what_is_not_copied_is_not_even_sent():
    everything_but = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert "*" in everything_but
    sent = {line.removeprefix("!") for line in everything_but if line.startswith("!")}
    assert sent == {source.split("/")[0] for source in copied(DOCKERFILE)}


def test_models_are_made_by_what_is_copied_before_them(tmp_path):
    before, mark, _ = DOCKERFILE.partition("\nARG MODELS=")
    assert mark
    for source in copied(before):
        target = tmp_path / source
        target.parent.mkdir(parents=True, exist_ok=True)
        copy = shutil.copytree if (ROOT / source).is_dir() else shutil.copy
        copy(ROOT / source, target)
    listed = subprocess.run(
        [sys.executable, "-m", "trio_stt", "models", "list"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
    )
    assert listed.returncode == 0, listed.stderr
    assert "vosk-model-small-en" in listed.stdout


# ── Compose ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The Compose files without the user's .env."""
    for file in ("docker-compose.yml", "compose.tls.yml", "compose.dev.yml"):
        shutil.copy(ROOT / file, tmp_path)
    shutil.copytree(ROOT / "deploy/compose", tmp_path / "deploy/compose")
    return tmp_path


def compose(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME")}
    command = [PROGRAMS / "docker-compose", *arguments, "config", "--format", "json"]
    return subprocess.run(command, cwd=folder, env={**kept, **environment}, capture_output=True, text=True)


def resolved(folder: Path, *files: str, **environment: str) -> dict[str, Any]:
    """What Compose makes of the files and variables."""
    answer = compose(folder, *(f"--file={file}" for file in files), **environment)
    assert answer.returncode == 0, answer.stderr
    assert "level=warning" not in answer.stderr, answer.stderr
    return json.loads(answer.stdout)


@pytest.fixture
def production(folder: Path) -> dict[str, Any]:
    """With the LiveKit agent."""
    return resolved(folder, "docker-compose.yml", AUTH_KEYS=KEYS, COMPOSE_PROFILES="agent")


def test_without_keys_compose_says_what_to_do(folder):
    for given in ({}, {"AUTH_KEYS": ""}):
        answer = compose(folder, **given)
        assert answer.returncode != 0
        assert "AUTH_KEYS" in answer.stderr
        assert "token --new-key" in answer.stderr


def test_every_service_is_confined_and_bounded(production):
    assert set(production["services"]) == {"nginx", "redis", "server", "agent"}
    for name, service in production["services"].items():
        assert service["read_only"], name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert not service.get("privileged"), name
        assert set(service["deploy"]["resources"]["limits"]) == {"cpus", "memory", "pids"}, name
        assert set(service["logging"]["options"]) == {"max-size", "max-file"}, name
        assert service["restart"] == "unless-stopped", name
        assert "healthcheck" in service or (name == "server" and "\nHEALTHCHECK " in DOCKERFILE), name
        assert all(waited["condition"] == "service_healthy" for waited in service.get("depends_on", {}).values()), name


def test_the_livekit_agent_is_there_only_if_it_is_wanted(folder):
    assert "agent" not in resolved(folder, "docker-compose.yml", AUTH_KEYS=KEYS)["services"]


@pytest.mark.parametrize("name", ["server", "agent"])
def test_there_may_be_any_number_of_servers_and_agents(production, name):
    service = production["services"][name]
    assert not {"container_name", "ports", "hostname"} & set(service)
    assert all(network is None for network in service["networks"].values())  # no address of its own


def test_servers_and_agents_believe_each_other_and_nginx_finds_both(production):
    server, agent = (production["services"][name]["environment"] for name in ("server", "agent"))
    for name in ("AUTH_KEYS", "AUTH_MODE", "REDIS_URL"):
        assert server[name] == agent[name]
    assert set(agent) <= SETTINGS
    settings = load(agent, env_file=Path("/nonexistent"))
    assert (settings.agent_host, settings.auth_mode) == ("0.0.0.0", "required")
    assert f"server agent:{settings.agent_port} resolve" in NGINX
    assert settings.stt_url == "ws://nginx:8000"


def test_nginx_alone_can_be_reached_and_redis_by_servers_and_agents_alone(production):
    services = production["services"]
    assert [name for name, service in services.items() if "ports" in service] == ["nginx"]
    assert production["networks"]["bus"]["internal"]
    assert [name for name, service in services.items() if "bus" in service["networks"]] == ["agent", "redis", "server"]
    assert set(services["nginx"]["networks"]) == {"front"}


def test_nginx_and_the_servers_find_each_other(production):
    (port,) = production["services"]["nginx"]["ports"]
    assert f"listen {port['target']};" in NGINX
    assert "server server:8000 resolve" in NGINX
    assert production["services"]["server"]["environment"]["SERVER_PORT"] == "8000"
    assert "http://127.0.0.1:8080/alive" in production["services"]["nginx"]["healthcheck"]["test"]


@pytest.mark.parametrize("prefix", ["172.31.250", "10.9.8"])
def test_nginx_is_the_one_trusted_proxy_and_no_server_ever_has_its_address(folder, prefix):
    found = resolved(folder, AUTH_KEYS=KEYS, FRONT_PREFIX=prefix)
    (addresses,) = found["networks"]["front"]["ipam"]["config"]
    nginx = ipaddress.ip_address(found["services"]["nginx"]["networks"]["front"]["ipv4_address"])
    assert found["services"]["server"]["environment"]["TRUSTED_PROXIES"] == str(nginx)
    assert nginx in ipaddress.ip_network(addresses["subnet"])
    assert nginx not in ipaddress.ip_network(addresses["ip_range"])
    assert addresses["gateway"] not in (str(nginx), None)


def test_a_server_may_use_as_many_cores_as_it_decodes_with_and_drains_before_it_is_killed(folder):
    for given in ({}, {"DECODE_CORES": "6"}):
        server = resolved(folder, AUTH_KEYS=KEYS, **given)["services"]["server"]
        assert float(server["deploy"]["resources"]["limits"]["cpus"]) == float(server["environment"]["DECODE_CORES"])
        grace_s = re.fullmatch(r"(\d+)s", server["stop_grace_period"])
        assert grace_s is not None
        assert float(grace_s[1]) >= float(server["environment"]["DRAIN_TIMEOUT_S"]) + 5


def test_the_settings_of_the_servers_are_settings(folder):
    (folder / ".env").write_text("LANGUAGE=de\nSERVER_HOST=127.0.0.1\nMODELS_DIR=/elsewhere\nAUTH_MODE=off\n")
    given = resolved(folder, AUTH_KEYS=KEYS)["services"]["server"]["environment"]
    assert set(given) <= SETTINGS
    settings = load(given, env_file=Path("/nonexistent"))
    assert settings.language == "de"  # .env is heard,
    assert settings.auth_mode == "required"  # but not in what would lead nowhere, or open a door
    assert settings.server_host == "0.0.0.0"
    assert settings.models_dir == Path("models")
    assert settings.redis_url == "redis://redis:6379"


def test_tls_is_added_by_a_second_file(folder):
    files = ("docker-compose.yml", "compose.tls.yml")
    nginx = resolved(folder, *files, AUTH_KEYS=KEYS, TLS_CERT="./c.pem", TLS_KEY="./k.pem")["services"]["nginx"]
    assert [port["target"] for port in nginx["ports"]] == [8000, 8443]
    tls = (folder / "deploy/compose/tls.conf").read_text()
    targets = {volume["target"] for volume in nginx["volumes"]}
    assert set(re.findall(r"ssl_certificate(?:_key)? (\S+);", tls)) < targets
    assert "include /etc/nginx/tls/tls*.conf;" in NGINX
    assert "/etc/nginx/tls/tls.conf" in targets
    without_key = compose(folder, *(f"--file={file}" for file in files), AUTH_KEYS=KEYS, TLS_CERT="./c.pem")
    assert "TLS_KEY" in without_key.stderr
    assert without_key.returncode != 0


def test_development_is_for_this_machine_alone_and_runs_the_source_of_this_folder(folder):
    (server,) = resolved(folder, "compose.dev.yml")["services"].values()
    settings = load(server["environment"], env_file=Path("/nonexistent"))
    assert settings.auth_mode == "off"
    assert settings.server_host == "127.0.0.1"
    assert server["network_mode"] == "host"  # so that this is the machine's loopback address, not the container's
    source = next(volume for volume in server["volumes"] if volume["type"] == "bind")
    assert source["target"] == "/opt/trio-stt/trio_stt"
    assert server["command"][1] == "trio_stt"  # what is watched, in the image's working folder
    assert "\nWORKDIR /opt/trio-stt\n" in DOCKERFILE
