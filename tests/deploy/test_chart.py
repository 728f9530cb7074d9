"""The Helm chart: Helm's own engine renders it, Kubernetes' own schemas judge what comes out."""

from __future__ import annotations

import json
import re
import shutil
from functools import cache
from typing import TYPE_CHECKING, Any

import kubernetes_validate  # type: ignore[import-untyped]
import pytest
import yaml

from service.settings import FOR_WORKERS, SECRETS, VARIABLES, load
from tests.deploy.chart import CHART, NEEDED, helm, of_kind, pods, rendered, templates, texts
from tests.deploy.chart_cases import CASES, OWN, PAGE
from tests.deploy.image import DOCKERFILE, stages, variables

if TYPE_CHECKING:
    from pathlib import Path

VERSIONS = ("1.27.0", "1.33.0", "1.37.0")
"""The oldest that the chart takes, and newer ones."""


def test_helm_is_content() -> None:
    """Lint, warnings counted as errors."""
    report = helm.lint(str(CHART), OWN["everything"].values, strict=True)
    assert [message for message in report["messages"] if message["severity"] > 1] == []
    assert report["errors"] == []


@cache
def validate(manifest: str, version: str) -> None:
    """Validate an object, once: most are the same in several cases."""
    kubernetes_validate.validate(json.loads(manifest), version, strict=True)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("case", CASES)
def test_kubernetes_would_take_it(case: str, version: str) -> None:
    """Every object, by the schemas of that version, with unknown fields as errors."""
    objects = rendered(CASES[case].values)
    own = [one for one in objects if "monitoring.coreos.com" not in one["apiVersion"]]
    for one in own:
        validate(json.dumps(one), version)
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
        ({"secrets": NEEDED, "settings": {"WORK_KEY": "sk-ant-x"}}, "settings.WORK_KEY .* move it to secrets"),
        ({"secrets": NEEDED, "settings": {"HTTPS_PROXY": "http://user:password@proxy:3128"}}, "HTTPS_PROXY"),
        ({"secrets": NEEDED, "settings": {"PROXY_BASE_PATH": 'a"; id; "'}}, "PROXY_BASE_PATH"),
        ({"secrets": NEEDED, "ingress": {"enabled": True, "host": "a$(id)"}}, "host"),
        ({"secrets": NEEDED, "ingress": {"enabled": True}}, "ingress.host"),
        ({"secrets": NEEDED, "monitoring": {"serviceMonitor": True}}, "METRICS_TOKEN"),
        ({"secrets": {"REDIS_URL": "redis://redis/0"}}, "DATABASE_URL"),
        ({"secrets": NEEDED | {"DB_PASSWORD": 12345}}, "DB_PASSWORD"),
        ({"secrets": NEEDED, "extraEnv": [{"name": "PROXY_PORT", "value": "80"}]}, "extraEnv"),
        ({"secrets": NEEDED, "worker": {"extraEnv": {"LOG_LEVEL": "debug"}}}, "extraEnv"),
        ({"secrets": NEEDED, "extraVolumes": [{"name": "spool", "emptyDir": {}}]}, "extraVolumes"),
        ({"secrets": NEEDED, "podLabels": {"app.kubernetes.io/name": "mine"}}, "app.kubernetes.io/name"),
        ({"secrets": NEEDED, "podAnnotations": {"inject": False}}, "podAnnotations"),
        ({"secrets": NEEDED, "networkPolicy": {"from": [{"cidr": "10.0.0.0/8"}]}}, "networkPolicy"),
        ({"secrets": NEEDED, "networkPolicy": {"egress": {"enabled": True}}}, "networkPolicy.enabled"),
        ({"secrets": NEEDED, "caCertificates": {"secret": "a", "configMap": "b"}}, "caCertificates"),
        ({"secrets": NEEDED, "image": {"digest": "sha256:abc"}}, "digest"),
        ({"secrets": NEEDED, "settings": {"ZAI_API_KEY": "k"}}, "settings.ZAI_API_KEY .* move it to secrets"),
        ({"secrets": NEEDED, "settings": {"PROXY_API_KEYS": "a:key"}}, "settings.PROXY_API_KEYS .* move it to secrets"),
        ({"secrets": NEEDED, "extraEnv": [{"name": "ADMIN_TOKEN", "value": "t"}]}, "ADMIN_TOKEN .* to proxy.extraEnv"),
        (
            {"secrets": NEEDED, "worker": {"extraEnv": [{"name": "PROXY_API_KEYS", "value": "k"}]}},
            "PROXY_API_KEYS .* to proxy.extraEnv",
        ),
    ],
    ids=[
        "no redis", "unknown name", "no number", "what the chart sets", "no variable", "key of a route",
        "password in an address", "commands in a path", "commands in a host", "no host", "no token",
        "no database", "secret that is a number", "what the chart sets, in extraEnv", "map", "own volume", "own label",
        "annotation that is no text", "no peer", "egress alone", "two sources of CAs", "no digest",
        "key among the settings", "client's key among the settings", "token for all", "client's key for workers",
    ],
)  # fmt: skip
def test_a_mistake_is_an_error_that_names_its_place(values: dict[str, Any], place: str) -> None:
    """The values have a schema, and what is needed is asked for."""
    with pytest.raises(helm.HelmError, match=place):
        rendered(values)


WITH_A_PASSWORD = {"DATABASE_DIRECT_URL", "DATABASE_URL", "REDIS_URL", "RQ_REDIS_URL"}


def test_no_secret_gets_into_a_configmap() -> None:
    """Names of secrets are no settings, nor is an address with a password; what is no secret may stand there."""
    for name in SECRETS:
        value = "postgresql://user:password@host/db" if name in WITH_A_PASSWORD else "secret"
        with pytest.raises(helm.HelmError, match=name):
            rendered({"secrets": NEEDED, "settings": {name: value}})
    harmless = {variable.name for variable in VARIABLES if variable.name not in (*SECRETS, *SET_BY_THE_CHART)}
    assert [name for name in harmless if re.search("_(KEY|PASSWORD|SECRET|TOKEN)$", name)] == []
    addresses = dict.fromkeys(WITH_A_PASSWORD, "redis://host:6379/0")
    assert of_kind({"secrets": {}, "settings": addresses}, "ConfigMap")["data"].items() >= addresses.items()


SET_BY_THE_CHART = ("CCPROXY_CONFIG", "CCPROXY_HOME", "DRAIN_DELAY", "DRAIN_TIMEOUT", "PROXY_HOST", "PROXY_PORT")


@pytest.mark.parametrize("name", ["123", "1e3", "true", "n", "a" * 53])
def test_names_that_yaml_reads_as_something_else(name: str) -> None:
    """A release, a Secret or a class may be called 123 or true: it stays a text, and the right one, in every object."""
    values: dict[str, Any] = {
        "existingSecret": name,
        "podLabels": {"team": "a"},
        "ingress": {"enabled": True, "host": "h.example.com", "className": name, "tlsSecret": name},
        "networkPolicy": {"enabled": True},
    }
    manifests = texts(values, name=name)
    made = [one for at, text in manifests.items() if at.endswith(".yaml") for one in yaml.safe_load_all(text) if one]
    for one in made:
        validate(json.dumps(one), VERSIONS[0])
        assert one["metadata"]["labels"]["app.kubernetes.io/instance"] == name
        assert len(one["metadata"]["name"]) <= 63
    for spec in (one["spec"] for one in made if one["kind"] == "Deployment"):
        assert spec["selector"]["matchLabels"].items() <= spec["template"]["metadata"]["labels"].items()
    (ingress,) = [one["spec"] for one in made if one["kind"] == "Ingress"]
    assert (ingress["ingressClassName"], ingress["tls"][0]["secretName"]) == (name, name)


@pytest.mark.parametrize("component", ["proxy", "worker", "migrate"])
def test_pods_can_do_little(component: str) -> None:
    """No root, nothing to write on but what is mounted, no token of the cluster: the strictest pod security."""
    pod = pods(OWN["least"].values)[component]
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
    (container,) = pods(OWN["least"].values)["proxy"]["containers"]
    asked = {name: container[name]["httpGet"]["path"] for name in container if name.endswith("Probe")}
    assert asked == {"startupProbe": "/livez", "livenessProbe": "/livez", "readinessProbe": "/readyz"}
    readiness = container["readinessProbe"]
    delay_s = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))["drain"]["delaySeconds"]
    assert readiness["periodSeconds"] * readiness["failureThreshold"] <= delay_s


def test_the_migration_runs_before_everything_else() -> None:
    """As a hook, with a Secret of its own, because the release's is not there yet; its log stays."""
    job = of_kind(OWN["least"].values, "Job", "-migrate")
    secret = of_kind(OWN["least"].values, "Secret", "-migrate")
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
    values = OWN["a secret that is there"].values
    assert [one for one in rendered(values) if one["kind"] == "Secret"] == []
    containers = {component: pod["containers"][0] for component, pod in pods(values).items()}
    assert {"secretRef": {"name": "mine"}} in containers.pop("proxy")["envFrom"]
    for container in containers.values():
        assert secrets_of(container) == dict.fromkeys(OF_WORKERS, "mine")


OF_WORKERS = {
    name for name in FOR_WORKERS if name in SECRETS or name in ("DB_HOST", "DB_NAME", "DB_PORT", "DB_SSL", "DB_USER")
}
"""A Secret of an operator's own often has all parts of the database's address, not its password alone."""


def test_the_chart_knows_which_secrets_are_the_proxys() -> None:
    """All that workers don't read; PROXY_API_KEYS may be `ledger`, which is none."""
    text = (CHART / "templates" / "_helpers.tpl").read_text(encoding="utf-8")
    listed = re.search(r'define "ccproxy.secretsOfProxies" -}}\n(.*)\n', text)
    assert listed
    assert set(listed[1].split()) == set(SECRETS) - set(FOR_WORKERS) - {"PROXY_API_KEYS"}


def secrets_of(container: dict[str, Any]) -> dict[str, str]:
    """The variables that come out of Secrets one by one, and which Secret it is."""
    found = {entry["name"]: entry["valueFrom"]["secretKeyRef"] for entry in container["env"] if "valueFrom" in entry}
    assert [name for name, place in found.items() if place["key"] != name] == []
    return {name: place["name"] for name, place in found.items()}


@pytest.mark.parametrize("component", ["worker", "migrate"])
@pytest.mark.parametrize("case", ["everything", "a secret that is there"])
def test_only_proxies_are_given_keys_of_providers(component: str, case: str) -> None:
    """Workers and the migration get addresses of servers; no Secret as a whole, and no TOML file."""
    pod = pods(CASES[case].values)[component]
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


@pytest.mark.parametrize("case", [name for name, case in CASES.items() if case.values.get("ingress")])
def test_the_ingress_neither_cuts_nor_buffers(case: str) -> None:
    """What ingress-nginx is told allows the longest answer and the largest request of these settings."""
    told = of_kind(CASES[case].values, "Ingress")["metadata"]["annotations"]
    nginx = {name.removeprefix("nginx.ingress.kubernetes.io/"): text for name, text in told.items()}
    settings = load(environ=of_kind(CASES[case].values, "ConfigMap")["data"])
    longest_ms = max(settings.timeouts.request_ms, settings.timeouts.stream_ms)
    assert min(int(nginx["proxy-read-timeout"]), int(nginx["proxy-send-timeout"])) >= longest_ms / 1000 + 60
    assert nginx["proxy-buffering"] == "off"
    assert int(nginx["proxy-body-size"].removesuffix("m")) * 2**20 > settings.max_body_bytes


def test_an_image_can_be_pinned_by_its_digest() -> None:
    """For every pod."""
    digest = f"sha256:{'0' * 64}"
    images = {pod["containers"][0]["image"] for pod in pods({"secrets": NEEDED, "image": {"digest": digest}}).values()}
    (image,) = images
    assert image.startswith("claude-code-proxy:")
    assert image.endswith(f"@{digest}")


@pytest.mark.parametrize(
    ("change", "rolled"),
    [
        ({}, set()),
        ({"settings": {"LOG_LEVEL": "debug"}}, {"proxy", "worker"}),
        ({"drain": {"delaySeconds": 6, "timeoutSeconds": 599}}, {"proxy", "worker"}),
        ({"secrets": NEEDED | {"DB_PASSWORD": "x"}}, {"proxy", "worker"}),
        ({"secrets": NEEDED | {"ZAI_API_KEY": "x"}}, {"proxy"}),
        ({"config": "[env]"}, {"proxy"}),
        ({"podAnnotations": {"secret": "2"}}, {"proxy", "worker"}),
        ({"worker": {"extraEnv": [{"name": "LOG_LEVEL", "value": "debug"}]}}, {"worker"}),
    ],
    ids=["none", "settings", "drain", "a server's secret", "a key", "TOML", "annotation", "a worker's"],
)
def test_a_change_rolls_the_pods_that_read_it(change: dict[str, Any], rolled: set[str]) -> None:
    """Those alone: streams of proxies need not drain for what a worker reads."""
    before, after = templates({"secrets": NEEDED}), templates({"secrets": NEEDED} | change)
    assert {component for component in ("proxy", "worker") if before[component] != after[component]} == rolled


def test_pods_have_what_values_add() -> None:
    """For all, and for one component, which stands over it; what the chart selects by stays."""
    values = OWN["everything"].values
    found = {component: template["metadata"] for component, template in templates(values).items()}
    assert {component: one["annotations"]["for"] for component, one in found.items()} == {
        "proxy": "proxies", "worker": "all", "migrate": "all",
    }  # fmt: skip
    teams = {"proxy": "platform", "worker": "platform", "migrate": "data"}
    assert {component: one["labels"]["team"] for component, one in found.items()} == teams
    for component, pod in pods(values).items():
        mounts = {mount["name"]: mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]}
        assert mounts.items() >= {"more": "/more", "ca": "/etc/ccproxy-ca"}.items()
        assert ("own" in mounts) is (component == "worker")
        assert {volume["name"] for volume in pod["volumes"]} == set(mounts)
    for component in ("proxy", "worker"):
        spec = of_kind(values, "Deployment", f"-{component}")["spec"]
        assert spec["selector"]["matchLabels"].items() <= spec["template"]["metadata"]["labels"].items()
        assert spec["template"]["spec"]["nodeSelector"] == {"kind": {"proxy": "big", "worker": "small"}[component]}


def test_files_of_certificates_may_have_a_private_key() -> None:
    """A client's own, which libpq reads only if nobody else can."""
    pod = pods({"secrets": NEEDED, "caCertificates": {"secret": "cas"}})["worker"]
    (volume,) = [volume for volume in pod["volumes"] if volume["name"] == "ca"]
    assert volume["secret"] == {"secretName": "cas", "defaultMode": 0o440}
    assert pod["securityContext"]["fsGroup"] == pod["securityContext"]["runAsGroup"]


@pytest.mark.parametrize("component", ["proxy", "worker", "migrate"])
def test_network_policies_are_about_the_pods(component: str) -> None:
    """Each selects one component's, nobody connects to workers, and egress is open until it is asked for."""
    values = OWN["everything"].values
    spec = of_kind(values, "NetworkPolicy", f"-{component}")["spec"]
    assert spec["podSelector"]["matchLabels"].items() <= templates(values)[component]["metadata"]["labels"].items()
    assert spec["podSelector"]["matchLabels"]["app.kubernetes.io/component"] == component
    assert spec["policyTypes"] == ["Ingress", "Egress"]
    assert spec.get("ingress", []) == (
        [{"ports": [{"port": "http", "protocol": "TCP"}], "from": [{"namespaceSelector": {}}]}]
        if component == "proxy"
        else []
    )
    open_ones = {"secrets": NEEDED, "networkPolicy": {"enabled": True}}
    assert of_kind(open_ones, "NetworkPolicy", f"-{component}")["spec"]["policyTypes"] == ["Ingress"]


def test_egress_names_servers_and_more() -> None:
    """Addresses and ports of values stand in the rules, in each pod's policy what it needs."""
    data, more = [{"ipBlock": {"cidr": "10.1.0.0/16"}}], {"ports": [{"port": 4318}]}
    egress = {"enabled": True, "postgres": {"to": data, "ports": [5432, 6432]}, "extra": [more]}
    values = {"secrets": NEEDED, "networkPolicy": {"enabled": True, "egress": egress}}
    ports = [{"port": 5432, "protocol": "TCP"}, {"port": 6432, "protocol": "TCP"}]
    for component in ("proxy", "worker", "migrate"):
        rules = of_kind(values, "NetworkPolicy", f"-{component}")["spec"]["egress"]
        assert ({"ports": ports, "to": data} in rules) is (component != "proxy")
        assert ({"ports": [{"port": 443, "protocol": "TCP"}]} in rules) is (component == "proxy")
        assert rules[-1] == more


def test_the_migrations_policy_is_there_before_it() -> None:
    """Of a hook's age, for namespaces that deny by default."""
    values = OWN["everything"].values
    policy = of_kind(values, "NetworkPolicy", "-migrate")["metadata"]["annotations"]
    assert policy == of_kind(values, "ConfigMap", "-migrate")["metadata"]["annotations"]
    assert policy["helm.sh/hook"] == "pre-install,pre-upgrade"
    assert int(policy["helm.sh/hook-weight"]) < 0


@pytest.mark.parametrize(
    ("values", "address"),
    [
        ({}, "http://test-claude-code-proxy.here:80"),
        ({"settings": {"PROXY_BASE_PATH": "claude/"}}, "http://test-claude-code-proxy.here:80/claude"),
        ({"ingress": {"enabled": True, "host": "a.example"}}, "http://a.example"),
        (
            {
                "ingress": {"enabled": True, "host": "a.example", "tlsSecret": "tls"},
                "settings": {"PROXY_BASE_PATH": "/claude"},
            },
            "https://a.example/claude",
        ),
    ],
    ids=["service", "service and prefix", "ingress", "all"],
)
def test_the_address_is_one_that_is_published(values: dict[str, Any], address: str) -> None:
    """In the notes of the release, and beside the first key in the migration's log."""
    values = {"secrets": NEEDED} | values
    notes = next(text for name, text in texts(values).items() if name.endswith("NOTES.txt"))
    assert notes.splitlines()[0].endswith(f" is at {address}")
    prefix = "/claude" if "settings" in values else ""
    assert f"ANTHROPIC_BASE_URL=http://127.0.0.1:4181{prefix} " in notes
    (container,) = pods(values)["migrate"]["containers"]
    assert f"export ANTHROPIC_BASE_URL={address} ANTHROPIC_AUTH_TOKEN=$key" in container["args"][-1]


def test_a_version_between_tags_makes_labels(tmp_path: Path) -> None:
    """A plus is not allowed in them."""
    chart = shutil.copytree(CHART, tmp_path / "chart")
    about = (chart / "Chart.yaml").read_text(encoding="utf-8")
    (chart / "Chart.yaml").write_text(
        re.sub(r"(?m)^(version|appVersion):.*$", r"\1: 1.2.3+gabc", about), encoding="utf-8"
    )
    for one in rendered({"secrets": NEEDED}, chart):
        labels = one["metadata"]["labels"].values()
        assert [text for text in labels if not re.fullmatch(r"[A-Za-z0-9]([\w.-]{0,61}[A-Za-z0-9])?", text)] == []


def leaves(values: dict[str, Any], place: str = "") -> set[str]:
    """The dotted names of all values; what is empty or no map is one."""
    found: set[str] = set()
    for name, value in values.items():
        inner = isinstance(value, dict) and value and not is_free(f"{place}{name}")
        found |= leaves(value, f"{place}{name}.") if inner else {f"{place}{name}"}
    return found


def is_free(place: str) -> bool:
    """Whether a map has names of its user's."""
    return place.endswith((".resources", ".annotations"))


def schema_leaves(schema: dict[str, Any], root: dict[str, Any], place: str = "") -> set[str]:
    """The dotted names that the schema has; each map has to refuse others."""
    if "$ref" in schema:
        schema = root["definitions"][schema["$ref"].rpartition("/")[2]]
    if "properties" not in schema or is_free(place) or schema.get("type") != "object":
        return {place}
    assert schema["additionalProperties"] is False, place
    found: set[str] = set()
    for name, inner in schema["properties"].items():
        found |= schema_leaves(inner, root, f"{place}.{name}" if place else name)
    return found


def test_the_schema_has_every_value_and_no_other() -> None:
    """`global` aside, which is Helm's; what values.yaml has is valid."""
    schema = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
    defaults = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    assert schema_leaves(schema, schema) - {"global"} == leaves(defaults)
    used = set(re.findall(r'"#/definitions/(\w+)"', json.dumps(schema)))
    assert used == set(schema["definitions"])


def test_the_page_names_values_that_exist() -> None:
    """In prose; blocks of values are rendered, and every example is linked."""
    defaults = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    prose = re.sub(r"```.*?```", "", PAGE, flags=re.DOTALL)
    names = {name for name in re.findall(r"`([a-z]\w*(?:\.[a-z]\w*)+)`", prose) if name.partition(".")[0] in defaults}
    known = leaves(defaults) | {name.rpartition(".")[0] for name in leaves(defaults)}
    assert names - known == set()
    assert names
    files = {path.name for path in (CHART / "examples").iterdir()}
    assert {name for name in files if f"deploy/chart/examples/{name})" in PAGE} == files


def test_the_number_of_proxies_is_either_set_or_scaled() -> None:
    """An upgrade must not reset what the autoscaler has chosen."""
    assert "replicas" not in of_kind(OWN["least"].values, "Deployment", "-proxy")["spec"]
    fixed = OWN["no autoscaling, no migration"].values
    assert of_kind(fixed, "Deployment", "-proxy")["spec"]["replicas"] == 5
    assert [one for one in rendered(fixed) if one["kind"] in ("HorizontalPodAutoscaler", "Job")] == []


def test_rules_and_board_are_the_files() -> None:
    """One text for Compose and for Kubernetes."""
    rules = of_kind(OWN["everything"].values, "PrometheusRule")
    assert rules["spec"] == yaml.safe_load((CHART / "files" / "alerts.yml").read_text(encoding="utf-8"))
    board = of_kind(OWN["everything"].values, "ConfigMap", "-board")
    assert board["data"]["ccproxy.json"] == (CHART / "files" / "board.json").read_text(encoding="utf-8")


def test_the_chart_fits_the_image() -> None:
    """The same user, and the port that the image opens."""
    image = stages(DOCKERFILE.read_text(encoding="utf-8"))[-1]
    user = next(line.rest for line in image if line.word == "USER")
    pod = pods(OWN["least"].values)["proxy"]
    assert f"{pod['securityContext']['runAsUser']}:{pod['securityContext']['runAsGroup']}" == user
    assert str(pod["containers"][0]["ports"][0]["containerPort"]) == variables(image)["PROXY_PORT"]
