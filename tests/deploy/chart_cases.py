"""Values that the chart is tried with: those of the examples, those that docs/kubernetes.md names, and more."""

from __future__ import annotations

import re

from tests.deploy.chart import CHART, NEEDED, Case, commanded, secret, values_of
from tests.deploy.judges import ROOT

PAGE = (ROOT / "docs" / "kubernetes.md").read_text(encoding="utf-8")
EXAMPLES = {
    path.stem: Case(values_of(text), commanded(text))
    for path in sorted((CHART / "examples").glob("*.yaml"))
    for text in [path.read_text(encoding="utf-8")]
}
BESIDE_THE_PAGE = (
    secret("mine", **NEEDED),
    secret("my-cas", **{"redis.crt": "c", "postgres.crt": "c"}),
    secret("postgres-app", uri=NEEDED["DATABASE_URL"]),
    secret("servers", redis=NEEDED["REDIS_URL"]),
    secret("providers", anthropic="sk-ant-x"),
)
ON_THE_PAGE = {
    f"docs/kubernetes.md, values {number}": Case(
        values if "secrets" in values or "extraEnv" in values else values | {"existingSecret": "mine"},
        BESIDE_THE_PAGE,
    )
    for number, block in enumerate(re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL), 1)
    for values in [values_of(block)]
}
OWN = {
    "least": Case({"secrets": NEEDED}),
    "a secret that is there": Case({"existingSecret": "mine"}, (secret("mine", **NEEDED, ANTHROPIC_API_KEY="k"),)),
    "no autoscaling, no migration": Case(
        {
            "secrets": NEEDED,
            "proxy": {"autoscaling": {"enabled": False}, "replicas": 5},
            "migrate": {"enabled": False},
        }
    ),
    "numbers": Case(
        {
            "secrets": NEEDED,
            "settings": {
                "ANTHROPIC_WEEKLY_LIMIT": 20_000_000,
                "ZAI_WEEKLY_LIMIT": 2**53,
                "SUBSCRIPTION_WEEKLY_LIMIT": "1.5M",
                "API_TIMEOUT_MS": 1_000_000,
                "MAX_BODY_BYTES": 67_108_864,
                "PROXY_WORKERS": 2,
                "CONTEXT_WINDOW_TRUNCATION_THRESHOLD": 0.75,
                "CIRCUIT_BREAKER_ENABLED": False,
            },
        }
    ),
    "parts of the database's address": Case(
        {
            "secrets": {"REDIS_URL": "redis://redis/0", "DB_PASSWORD": "p"},
            "settings": {"DB_HOST": "postgres", "DB_PORT": 6432, "DB_NAME": "n", "DB_USER": "u", "DB_SSL": True},
        }
    ),
    "secrets in files": Case(
        {
            "settings": {"REDIS_URL_FILE": "/run/servers/redis", "DATABASE_URL_FILE": "/run/servers/postgres"},
            "extraVolumes": [{"name": "servers", "secret": {"secretName": "servers"}}],
            "extraVolumeMounts": [{"name": "servers", "mountPath": "/run/servers", "readOnly": True}],
            "proxy": {
                "extraEnv": [{"name": "ANTHROPIC_API_KEY_FILE", "value": "/run/keys/anthropic"}],
                "extraVolumes": [{"name": "keys", "secret": {"secretName": "keys"}}],
                "extraVolumeMounts": [{"name": "keys", "mountPath": "/run/keys", "readOnly": True}],
            },
        },
        (
            secret("servers", redis=NEEDED["REDIS_URL"], postgres=NEEDED["DATABASE_URL"]),
            secret("keys", anthropic="sk-ant-x"),
        ),
    ),
    "a Cluster, and a pooler": Case(
        {
            "secrets": NEEDED
            | {
                "REDIS_URL": "redis+cluster://:p@a:7000,b:7001",
                "RQ_REDIS_URL": "redis://queue:6380/0",
                "DATABASE_DIRECT_URL": "postgresql://u:p@postgres:5433/db",
            },
            "networkPolicy": {
                "enabled": True,
                "egress": {
                    "enabled": True,
                    "redis": {"ports": [6380, 7000, 7001]},
                    "postgres": {"ports": [5432, 5433]},
                },
            },
        }
    ),
    "everything": Case(
        {
            "secrets": NEEDED | {"WORK_KEY": "sk-ant-x", "METRICS_TOKEN": "x" * 48},
            "settings": {"LOG_FORMAT": "json", "PROXY_BASE_PATH": "claude"},
            "config": '[[routes]]\nid = "work"\nprovider = "anthropic"\napi_key_env = "WORK_KEY"\n',
            "image": {"pullSecrets": [{"name": "registry"}], "tag": "1.2.3"},
            "caCertificates": {"configMap": "cas"},
            "extraEnv": [{"name": "LOG_LEVEL", "value": "warn"}, {"name": "API_MAX_RETRIES", "value": 2}],
            "extraVolumes": [{"name": "more", "emptyDir": {}}],
            "extraVolumeMounts": [{"name": "more", "mountPath": "/more"}],
            "podAnnotations": {"for": "all"},
            "podLabels": {"team": "platform"},
            "proxy": {
                "nodeSelector": {"kind": "big"},
                "tolerations": [{"key": "ours", "operator": "Exists"}],
                "affinity": {"nodeAffinity": {}},
                "extraEnv": [{"name": "LOG_LEVEL", "value": "debug"}],
                "podAnnotations": {"for": "proxies"},
            },
            "worker": {
                "nodeSelector": {"kind": "small"},
                "extraVolumes": [{"name": "own", "emptyDir": {}}],
                "extraVolumeMounts": [{"name": "own", "mountPath": "/own"}],
            },
            "migrate": {"podLabels": {"team": "data"}},
            "service": {"type": "LoadBalancer", "annotations": {"a": "b"}},
            "ingress": {"enabled": True, "host": "claude.example.com", "className": "nginx", "tlsSecret": "tls"},
            "networkPolicy": {"enabled": True, "from": [{"namespaceSelector": {}}], "egress": {"enabled": True}},
            "monitoring": {"serviceMonitor": True, "rules": True, "board": True, "labels": {"release": "prometheus"}},
        },
        ({"kind": "ConfigMap", "metadata": {"name": "cas"}, "data": {"ca.crt": "c"}},),
    ),
}
CASES = OWN | EXAMPLES | ON_THE_PAGE
PODS = [
    (case, component)
    for case, tried in CASES.items()
    for component in ("proxy", "worker", "migrate")
    if component != "migrate" or tried.values.get("migrate", {}).get("enabled", True)
]
