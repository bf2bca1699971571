"""The Helm chart: what it makes is what Kubernetes takes, and its parts agree with each other and with the server."""

import re
from pathlib import Path
from typing import Any

import attrs
import helm_python
import kubernetes_validate
import pytest
import yaml

from trio_stt import __version__
from trio_stt.settings import Settings, load

ROOT = Path(__file__).resolve().parents[2]
KUBERNETES = ROOT / "deploy/kubernetes"
CHART = KUBERNETES / "trio-stt"
EXAMPLE = yaml.safe_load((KUBERNETES / "example-values.yaml").read_text(encoding="utf-8"))

SETTINGS = {field.name.upper() for field in attrs.fields(Settings)}

VARIANTS: dict[str, dict[str, Any]] = {
    "example": {},
    "fixed number": {"autoscaling": {"enabled": False}, "replicas": 3},
    "open network": {"networkPolicy": {"enabled": False}},
    "everything": {
        "image": {"repository": "trio-stt", "tag": "1", "pullSecrets": ["one", "two"]},
        "gateway": {"addresses": "10.0.0.0/8", "sectionName": "https", "hostnames": []},
        "networkPolicy": {"redis": {"port": 6380, "to": [{"ipBlock": {"cidr": "10.1.2.3/32"}}]}},
        "resources": {"limits": {"cpu": 4, "memory": "4Gi"}},
        "settings": {"LANGUAGE": "de", "WRITTEN_CAPTIONS": True, "BUS_TTL_S": 60},
    },
}


def rendered(changes: dict[str, Any] | None = None, name: str = "captions") -> dict[str, dict[str, Any]]:
    """What the chart makes of the example's values with `changes`: by kind."""
    with helm_python.Chart.load(CHART) as chart:
        files = chart.render(values={**EXAMPLE, **(changes or {})}, name=name)
    documents = [document for file in files.values() for document in yaml.safe_load_all(file) if document]
    by_kind = {document["kind"]: document for document in documents}
    assert len(by_kind) == len(documents)
    return by_kind


AGENT = {"enabled": True, "livekitUrl": "wss://livekit.example.org", "settings": {"AGENT_MAX_ROOMS": 5}}


def with_agent(changes: dict[str, Any] | None = None) -> dict[tuple[str, str], dict[str, Any]]:
    """What the chart makes with the LiveKit agent: by kind and name."""
    with helm_python.Chart.load(CHART) as chart:
        files = chart.render(values={**EXAMPLE, "agent": AGENT, **(changes or {})}, name="captions")
    documents = [document for file in files.values() for document in yaml.safe_load_all(file) if document]
    return {(document["kind"], document["metadata"]["name"]): document for document in documents}


def server(parts: dict[str, dict[str, Any]]) -> dict[str, Any]:
    (container,) = parts["Deployment"]["spec"]["template"]["spec"]["containers"]
    return container


def environment(parts: dict[str, dict[str, Any]]) -> dict[str, Any]:
    entries = server(parts)["env"]
    by_name = {entry["name"]: entry.get("value", entry.get("valueFrom")) for entry in entries}
    assert len(by_name) == len(entries)
    return by_name


@pytest.mark.parametrize("values", VARIANTS.values(), ids=VARIANTS)
def test_helm_s_own_checks_find_nothing(values):
    report = helm_python.lint(CHART, values={**EXAMPLE, **values}, strict=True)
    assert report["errors"] == []
    assert [each for each in report["messages"] if each["severity"] > 1] == []


@pytest.mark.parametrize("version", ["1.31", "1.34", kubernetes_validate.latest_version()])
@pytest.mark.parametrize("values", VARIANTS.values(), ids=VARIANTS)
def test_all_parts_are_as_kubernetes_wants_them(values, version):
    parts = rendered(values)
    del parts["HTTPRoute"]  # no part of Kubernetes itself: below
    assert {"Deployment", "Service", "PodDisruptionBudget"} <= set(parts)
    for part in parts.values():
        kubernetes_validate.validate(part, version, strict=True)


def test_a_wrong_part_would_be_found():
    part = rendered()["Deployment"]
    part["spec"]["template"]["spec"]["terminationGracePeriod"] = 120
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(part, kubernetes_validate.latest_version(), strict=True)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"secret": ""}, "secret: name the Secret"),
        ({"gateway": {}}, "gateway.addresses: name the networks"),
        ({"termination": {"graceSeconds": 60}}, "termination: graceSeconds must be at least"),
        ({"settings": {"AUTH_KEYS": "k:secret"}}, "AUTH_KEYS"),
        ({"settings": {"DECODE_CORES": "4"}}, "DECODE_CORES"),
        ({"autoscale": {"min": 3}}, "autoscale"),
        ({"resources": {"limits": {"cpu": None}}}, "cpu"),
        ({"autoscaling": {"targetLoad": "70"}}, "targetLoad"),
    ],
)
def test_wrong_values_are_refused_by_name(values, said):
    with pytest.raises(helm_python.HelmError, match=re.escape(said)):
        rendered(values)


@pytest.mark.parametrize("values", VARIANTS.values(), ids=VARIANTS)
def test_the_server_takes_its_settings(values):
    given = environment(rendered(values))
    assert set(given) <= SETTINGS
    plain = {name: value for name, value in given.items() if isinstance(value, str)}
    assert load({**plain, "AUTH_KEYS": "k:" + 40 * "x"}, env_file=Path("/nonexistent")).auth_mode == "required"
    reserved = helm_schema()["properties"]["settings"]["propertyNames"]["not"]["enum"]
    assert set(reserved) <= SETTINGS
    assert set(given) - set(values.get("settings", EXAMPLE["settings"])) <= set(reserved)


def helm_schema() -> dict[str, Any]:
    with helm_python.Chart.load(CHART) as chart:
        schema = chart.schema
    assert schema is not None
    return schema


def test_a_pod_drains_before_it_is_killed():
    parts = rendered()
    pod = parts["Deployment"]["spec"]["template"]["spec"]
    leaves_for_s = float(server(parts)["lifecycle"]["preStop"]["exec"]["command"][1])
    drains_for_s = float(environment(parts)["DRAIN_TIMEOUT_S"])
    assert leaves_for_s + drains_for_s < pod["terminationGracePeriodSeconds"] == 120
    assert parts["Deployment"]["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0


def test_a_pod_has_no_rights_and_writes_to_two_folders():
    parts = rendered()
    pod, container = parts["Deployment"]["spec"]["template"]["spec"], server(parts)
    assert pod["securityContext"]["runAsNonRoot"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    image = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    user, group = pod["securityContext"]["runAsUser"], pod["securityContext"]["runAsGroup"]
    assert f"\nUSER {user}:{group}\n" in image
    cache = re.search(r"\sCACHE_DIR=(\S+)", image)
    assert cache is not None
    assert {mount["mountPath"] for mount in container["volumeMounts"]} == {cache[1], "/tmp"}


def test_the_route_and_the_service_lead_to_the_pods():
    parts = rendered(name="captions")
    service, labels = parts["Service"], parts["Deployment"]["spec"]["template"]["metadata"]["labels"]
    for selector in (
        service["spec"]["selector"],
        parts["Deployment"]["spec"]["selector"]["matchLabels"],
        parts["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
        parts["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"],
    ):
        assert selector.items() <= labels.items()
    (rule,) = parts["HTTPRoute"]["spec"]["rules"]
    (backend,) = rule["backendRefs"]
    (port,) = service["spec"]["ports"]
    assert (backend["name"], backend["port"]) == (service["metadata"]["name"], port["port"])
    (container_port,) = server(parts)["ports"]
    assert port["targetPort"] == container_port["name"]
    (ingress,) = parts["NetworkPolicy"]["spec"]["ingress"]
    assert ingress["ports"] == [{"port": container_port["name"]}]
    paths = [match["path"]["value"] for match in rule["matches"]]
    assert not any("/metrics".startswith(path) or "/admin".startswith(path) for path in paths)


def test_the_autoscaler_asks_for_a_metric_that_the_server_has_and_the_adapter_gives():
    parts = rendered()
    (metric,) = parts["HorizontalPodAutoscaler"]["spec"]["metrics"]
    name = metric["pods"]["metric"]["name"]
    assert f"`{name}`" in (ROOT / "docs/operations.md").read_text(encoding="utf-8")
    (rule,) = yaml.safe_load((KUBERNETES / "prometheus-adapter.yaml").read_text())["rules"]["custom"]
    assert rule["seriesQuery"].startswith(f"{name}{{")
    assert parts["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]["name"] == "captions"
    assert "replicas" not in parts["Deployment"]["spec"]  # or each upgrade would set them back
    assert rendered(VARIANTS["fixed number"])["Deployment"]["spec"]["replicas"] == 3


@pytest.mark.parametrize("changes", [{}, {"networkPolicy": {"enabled": False}}])
def test_the_agent_is_as_kubernetes_wants_it_and_as_helm_checks(changes):
    assert helm_python.lint(CHART, values={**EXAMPLE, "agent": AGENT, **changes}, strict=True)["errors"] == []
    for (kind, _), part in with_agent(changes).items():
        if kind != "HTTPRoute":
            kubernetes_validate.validate(part, kubernetes_validate.latest_version(), strict=True)


def test_the_agent_and_the_servers_find_each_other_and_nobody_takes_one_for_the_other():
    parts = with_agent()
    agent = parts["Deployment", "captions-agent"]["spec"]["template"]
    servers = parts["Deployment", "captions"]["spec"]["template"]
    for name, pod, other in (("captions", servers, agent), ("captions-agent", agent, servers)):
        for selector in (
            parts["Service", name]["spec"]["selector"],
            parts["Deployment", name]["spec"]["selector"]["matchLabels"],
            parts["NetworkPolicy", name]["spec"]["podSelector"]["matchLabels"],
        ):
            assert selector.items() <= pod["metadata"]["labels"].items()
            assert not selector.items() <= other["metadata"]["labels"].items()
    (container,) = agent["spec"]["containers"]
    given = {entry["name"]: entry.get("value") for entry in container["env"]}
    settings = load(
        {name: value for name, value in given.items() if value and name in SETTINGS}
        | {"AUTH_KEYS": "k:" + 40 * "x", "AGENT_OWN_URL": given["AGENT_OWN_URL"].replace("$(POD_ADDRESS)", "10.0.0.1")},
        env_file=Path("/nonexistent"),
    )
    assert set(given) - SETTINGS == {"POD_ADDRESS"}
    assert (settings.agent_max_rooms, settings.agent_own_url) == (5, "http://10.0.0.1:8080")
    assert settings.stt_url == "ws://captions:8000"
    assert settings.drain_timeout_s < agent["spec"]["terminationGracePeriodSeconds"]
    rules = parts["HTTPRoute", "captions"]["spec"]["rules"]
    assert [[backend["name"] for backend in rule["backendRefs"]] for rule in rules] == [
        ["captions"],
        ["captions-agent"],
    ]
    assert {match["path"]["value"] for match in rules[0]["matches"]} >= {
        "/agent/join",
        "/agent/cancel",
        "/agent/webhook",
    }


def test_an_agent_without_livekit_is_refused():
    with pytest.raises(helm_python.HelmError, match=r"agent\.livekitUrl: say where LiveKit is"):
        with_agent({"agent": {"enabled": True}})


def test_the_chart_is_of_this_version():
    assert yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"] == __version__
