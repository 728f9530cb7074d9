"""The Helm chart: Helm's own engine renders it, Kubernetes' own schemas judge what comes out."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import kubernetes_validate  # type: ignore[import-untyped]
import pytest
import yaml

from service.settings import FOR_WORKERS, SECRETS, load
from tests.deploy.image import DOCKERFILE, stages, variables
from tests.deploy.judges import DEPLOY

if TYPE_CHECKING:
    from pathlib import Path

helm = pytest.importorskip("helm_python", reason="its wheels are for 64-bit Linux")

CHART = DEPLOY / "chart"
VERSIONS = ("1.27.0", "1.33.0")
"""The oldest that the chart takes, and a newer one."""
NEEDED = {"REDIS_URL": "redis://redis/0", "DATABASE_URL": "postgresql://u:p@postgres/db"}
CASES: dict[str, dict[str, Any]] = {
    "least": {"secrets": NEEDED},
    "a secret that is there": {"existingSecret": "mine"},
    "no autoscaling, no migration": {
        "secrets": NEEDED,
        "proxy": {"autoscaling": {"enabled": False}, "replicas": 5},
        "migrate": {"enabled": False},
    },
    "everything": {
        "secrets": NEEDED | {"ANTHROPIC_API_KEY": "sk-ant-x", "METRICS_TOKEN": "x" * 48},
        "settings": {"ANTHROPIC_WEEKLY_LIMIT": 20_000_000, "LOG_FORMAT": "json"},
        "config": '[[routes]]\nid = "work"\nprovider = "anthropic"\napi_key_env = "WORK_KEY"\n',
        "image": {"pullSecrets": [{"name": "registry"}], "tag": "1.2.3"},
        "proxy": {
            "nodeSelector": {"kind": "big"},
            "tolerations": [{"key": "ours", "operator": "Exists"}],
            "affinity": {"nodeAffinity": {}},
        },
        "service": {"type": "LoadBalancer", "annotations": {"a": "b"}},
        "ingress": {"enabled": True, "host": "claude.example.com", "className": "nginx", "tlsSecret": "tls"},
        "networkPolicy": {"enabled": True, "from": [{"namespaceSelector": {}}]},
        "monitoring": {"serviceMonitor": True, "rules": True, "board": True, "labels": {"release": "prometheus"}},
    },
}


def rendered(values: dict[str, Any]) -> list[dict[str, Any]]:
    """All objects that the chart makes of these values."""
    with helm.Chart.load(str(CHART)) as chart:
        texts = chart.render(copy.deepcopy(values), name="test", namespace="here")
    manifests = [text for name, text in texts.items() if name.endswith(".yaml")]
    return [found for text in manifests for found in yaml.safe_load_all(text) if found]


def of_kind(values: dict[str, Any], kind: str, name: str = "") -> dict[str, Any]:
    """The one object of a kind whose name ends so."""
    (found,) = (one for one in rendered(values) if one["kind"] == kind and one["metadata"]["name"].endswith(name))
    return found


def pods(values: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The pods of all Deployments and Jobs, by component."""
    found = [one for one in rendered(values) if one["kind"] in ("Deployment", "Job")]
    return {one["metadata"]["labels"]["app.kubernetes.io/component"]: one["spec"]["template"]["spec"] for one in found}


def test_helm_is_content() -> None:
    """Lint, warnings counted as errors."""
    report = helm.lint(str(CHART), CASES["everything"], strict=True)
    assert [message for message in report["messages"] if message["severity"] > 1] == []
    assert report["errors"] == []


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("case", CASES)
def test_kubernetes_would_take_it(case: str, version: str) -> None:
    """Every object, by the schemas of that version, with unknown fields as errors."""
    objects = rendered(CASES[case])
    own = [one for one in objects if "monitoring.coreos.com" not in one["apiVersion"]]
    for one in own:
        kubernetes_validate.validate(one, version, strict=True)
    names = [(one["kind"], one["metadata"]["name"]) for one in objects]
    assert len(set(names)) == len(names)
    assert {kind for kind, _ in names} >= {"Deployment", "Service", "ConfigMap", "PodDisruptionBudget"}


@pytest.mark.parametrize(
    ("values", "place"),
    [
        ({"secrets": {}}, "REDIS_URL"),
        ({"secrets": NEEDED, "replicas": 3}, "replicas"),
        ({"secrets": NEEDED, "proxy": {"replicas": "three"}}, "replicas"),
        ({"secrets": NEEDED, "settings": {"DRAIN_DELAY": "9s"}}, "DRAIN_DELAY"),
        ({"secrets": NEEDED, "settings": {"log_level": "info"}}, "log_level"),
        ({"secrets": NEEDED, "ingress": {"enabled": True}}, "ingress.host"),
        ({"secrets": NEEDED, "monitoring": {"serviceMonitor": True}}, "METRICS_TOKEN"),
    ],
    ids=["no redis", "unknown name", "no number", "what the chart sets", "no variable", "no host", "no token"],
)
def test_a_mistake_is_an_error_that_names_its_place(values: dict[str, Any], place: str) -> None:
    """The values have a schema, and what is needed is asked for."""
    with pytest.raises(helm.HelmError, match=place):
        rendered(values)


@pytest.mark.parametrize("component", ["proxy", "worker", "migrate"])
def test_pods_can_do_little(component: str) -> None:
    """No root, nothing to write on but what is mounted, no token of the cluster: the strictest pod security."""
    pod = pods(CASES["least"])[component]
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    (container,) = pod["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    mounted = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    writable = {volume["name"] for volume in pod["volumes"] if "emptyDir" in volume}
    home = next(entry["value"] for entry in container["env"] if entry["name"] == "CCPROXY_HOME")
    assert any(home.startswith(mounted[name]) for name in writable)
    assert "limits" in container["resources"]


@pytest.mark.parametrize("drain", [{}, {"delaySeconds": 20, "timeoutSeconds": 1800}], ids=["as it is", "longer"])
def test_the_grace_period_is_longer_than_the_drain(drain: dict[str, int], tmp_path: Path) -> None:
    """Kubernetes waits for whatever it is set to."""
    values = {"secrets": NEEDED, "drain": drain}
    told = of_kind(values, "ConfigMap")["data"]
    settings = load(environ=told | {"CCPROXY_HOME": str(tmp_path), "PROXY_HOST": "0.0.0.0"})  # noqa: S104
    grace_ms = pods(values)["proxy"]["terminationGracePeriodSeconds"] * 1000
    assert grace_ms >= settings.drain.delay_ms + settings.drain.limit_ms + 30_000


def test_probes_ask_what_they_mean() -> None:
    """Ready to be given requests is one thing, alive another: a provider's outage must restart nothing."""
    (container,) = pods(CASES["least"])["proxy"]["containers"]
    asked = {name: container[name]["httpGet"]["path"] for name in container if name.endswith("Probe")}
    assert asked == {"startupProbe": "/livez", "livenessProbe": "/livez", "readinessProbe": "/readyz"}
    readiness = container["readinessProbe"]
    delay_s = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))["drain"]["delaySeconds"]
    assert readiness["periodSeconds"] * readiness["failureThreshold"] <= delay_s


def test_the_migration_runs_before_everything_else() -> None:
    """As a hook, with a Secret of its own, because the release's is not there yet; its log stays."""
    job = of_kind(CASES["least"], "Job")
    secret = of_kind(CASES["least"], "Secret", "-migrate")
    for one in (job, secret):
        assert one["metadata"]["annotations"]["helm.sh/hook"] == "pre-install,pre-upgrade"
    assert int(secret["metadata"]["annotations"]["helm.sh/hook-weight"]) < int(
        job["metadata"]["annotations"]["helm.sh/hook-weight"]
    )
    assert "hook-succeeded" not in job["metadata"]["annotations"]["helm.sh/hook-delete-policy"]
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert secrets_of(container) == dict.fromkeys(OF_WORKERS, secret["metadata"]["name"])
    assert set(secret["data"]) <= OF_WORKERS
    assert "ccproxy migrate\nkey=$(ccproxy keys ensure)" in container["args"][-1]


def test_a_secret_that_is_there_is_used_and_none_is_made() -> None:
    """By the pods and by the hook."""
    values = CASES["a secret that is there"]
    assert [one for one in rendered(values) if one["kind"] == "Secret"] == []
    containers = {component: pod["containers"][0] for component, pod in pods(values).items()}
    assert {"secretRef": {"name": "mine"}} in containers.pop("proxy")["envFrom"]
    for container in containers.values():
        assert secrets_of(container) == dict.fromkeys(OF_WORKERS, "mine")


OF_WORKERS = {
    name for name in FOR_WORKERS if name in SECRETS or name in ("DB_HOST", "DB_NAME", "DB_PORT", "DB_SSL", "DB_USER")
}
"""A Secret of an operator's own often has all parts of the database's address, not its password alone."""


def secrets_of(container: dict[str, Any]) -> dict[str, str]:
    """The variables that come out of Secrets one by one, and which Secret it is."""
    found = {entry["name"]: entry["valueFrom"]["secretKeyRef"] for entry in container["env"] if "valueFrom" in entry}
    assert [name for name, place in found.items() if place["key"] != name] == []
    return {name: place["name"] for name, place in found.items()}


@pytest.mark.parametrize("component", ["worker", "migrate"])
@pytest.mark.parametrize("case", ["everything", "a secret that is there"])
def test_only_proxies_are_given_keys_of_providers(component: str, case: str) -> None:
    """Workers and the migration get addresses of servers; no Secret as a whole, and no TOML file."""
    pod = pods(CASES[case])[component]
    (container,) = pod["containers"]
    assert [source for source in container.get("envFrom", []) if "secretRef" in source] == []
    assert set(secrets_of(container)) == OF_WORKERS
    assert [volume for volume in pod["volumes"] if "secret" in volume] == []


def test_the_migration_is_given_all_parts_of_the_databases_address() -> None:
    """Its own Secret has what workers may read, and nothing else."""
    parts = {"DB_HOST": "db", "DB_PORT": "5432", "DB_NAME": "n", "DB_USER": "u", "DB_SSL": "true", "DB_PASSWORD": "p"}
    secret = of_kind({"secrets": NEEDED | parts | {"ZAI_API_KEY": "z"}}, "Secret", "-migrate")
    assert set(secret["data"]) == set(NEEDED | parts)


@pytest.mark.parametrize(
    ("values", "paths"),
    [
        ({}, ["/v1"]),
        ({"settings": {"PROXY_BASE_PATH": "anthropic/"}}, ["/anthropic/v1"]),
        ({"ingress": {"paths": ["/v1", "/livez"]}}, ["/v1", "/livez"]),
        ({"ingress": {"paths": ["/"]}}, ["/"]),
    ],
    ids=["as it is", "prefix", "health too", "everything"],
)
def test_the_ingress_publishes_what_clients_need(values: dict[str, Any], paths: list[str]) -> None:
    """The Messages API; dashboard, admin API, metrics and schema only where a value says so."""
    ingress = {"enabled": True, "host": "claude.example.com"} | values.get("ingress", {})
    (rule,) = of_kind({"secrets": NEEDED} | values | {"ingress": ingress}, "Ingress")["spec"]["rules"]
    assert [(entry["path"], entry["pathType"]) for entry in rule["http"]["paths"]] == [(p, "Prefix") for p in paths]


def test_an_image_can_be_pinned_by_its_digest() -> None:
    """For every pod."""
    digest = f"sha256:{'0' * 64}"
    images = {pod["containers"][0]["image"] for pod in pods({"secrets": NEEDED, "image": {"digest": digest}}).values()}
    (image,) = images
    assert image.startswith("claude-code-proxy:")
    assert image.endswith(f"@{digest}")


def test_a_change_of_settings_rolls_the_pods() -> None:
    """And no change does not."""

    def checksum(values: dict[str, Any]) -> str:
        annotations = of_kind(values, "Deployment", "-proxy")["spec"]["template"]["metadata"]["annotations"]
        return str(annotations["checksum/settings"])

    before = checksum({"secrets": NEEDED})
    assert checksum({"secrets": NEEDED}) == before
    assert checksum({"secrets": NEEDED, "settings": {"LOG_LEVEL": "debug"}}) != before
    assert checksum({"secrets": NEEDED | {"ZAI_API_KEY": "x"}}) != before


def test_the_number_of_proxies_is_either_set_or_scaled() -> None:
    """An upgrade must not reset what the autoscaler has chosen."""
    assert "replicas" not in of_kind(CASES["least"], "Deployment", "-proxy")["spec"]
    fixed = CASES["no autoscaling, no migration"]
    assert of_kind(fixed, "Deployment", "-proxy")["spec"]["replicas"] == 5
    assert [one for one in rendered(fixed) if one["kind"] in ("HorizontalPodAutoscaler", "Job")] == []


def test_rules_and_board_are_the_files() -> None:
    """One text for Compose and for Kubernetes."""
    rules = of_kind(CASES["everything"], "PrometheusRule")
    assert rules["spec"] == yaml.safe_load((CHART / "files" / "alerts.yml").read_text(encoding="utf-8"))
    board = of_kind(CASES["everything"], "ConfigMap", "-board")
    assert board["data"]["ccproxy.json"] == (CHART / "files" / "board.json").read_text(encoding="utf-8")


def test_the_chart_fits_the_image() -> None:
    """The same user, and the port that the image opens."""
    image = stages(DOCKERFILE.read_text(encoding="utf-8"))[-1]
    user = next(line.rest for line in image if line.word == "USER")
    pod = pods(CASES["least"])["proxy"]
    assert f"{pod['securityContext']['runAsUser']}:{pod['securityContext']['runAsGroup']}" == user
    assert str(pod["containers"][0]["ports"][0]["containerPort"]) == variables(image)["PROXY_PORT"]
