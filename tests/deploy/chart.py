"""The Helm chart as a cluster would run it: Helm's own engine renders it, and each pod gets its variables and files.

Not here: what is expected of them (`test_chart*`).
"""

from __future__ import annotations

import base64
import json
import re
import shlex
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import yaml

from tests.deploy.image import DOCKERFILE, stages, variables
from tests.deploy.judges import DEPLOY

if TYPE_CHECKING:
    from pathlib import Path

helm = pytest.importorskip("helm_python", reason="its wheels are for 64-bit Linux")

CHART = DEPLOY / "chart"
NAME, NAMESPACE = "test", "here"
NEEDED = {"REDIS_URL": "redis://redis/0", "DATABASE_URL": "postgresql://u:p@postgres/db"}
COMPONENTS = ("proxy", "worker", "migrate")
SOURCES = {"configMapRef": "ConfigMap", "secretRef": "Secret"}
REFERENCE = re.compile(r"\$\(([A-Za-z_][\w.-]*)\)")

Values = dict[str, Any]
Object = dict[str, Any]


class Case(NamedTuple):
    """Values, and the objects that have to be in the cluster before."""

    values: Values
    existing: tuple[Object, ...] = ()


def secret(name: str, **texts: str) -> Object:
    """A Secret that an operator has created."""
    data = {key: base64.b64encode(text.encode()).decode() for key, text in texts.items()}
    return {"kind": "Secret", "metadata": {"name": name}, "data": data}


def values_of(text: str) -> Values:
    """A file of values, as Helm reads it."""
    values: Values = helm.values_from_yaml(text)
    return values


def rendered(values: Values, chart: Path = CHART) -> list[Object]:
    """All objects that the chart makes of these values; not to be changed."""
    return objects_of(json.dumps(values), chart)


@cache
def objects_of(values: str, chart: Path) -> list[Object]:
    """The same, once."""
    manifests = [text for name, text in texts(json.loads(values), chart).items() if name.endswith(".yaml")]
    return [found for text in manifests for found in yaml.safe_load_all(text) if found]


def texts(values: Values, chart: Path = CHART, name: str = NAME) -> dict[str, str]:
    """What the chart's templates become, by their names; `name` is the release's."""
    with helm.Chart.load(str(chart)) as loaded:
        found: dict[str, str] = loaded.render(values, name=name, namespace=NAMESPACE)
    return found


def of_kind(values: Values, kind: str, name: str = "") -> Object:
    """The object of a kind with this name behind the release's."""
    whole = f"{NAME}-claude-code-proxy{name}"
    (found,) = (one for one in rendered(values) if (one["kind"], one["metadata"]["name"]) == (kind, whole))
    return found


def pods(values: Values) -> dict[str, Object]:
    """The pods of all Deployments and Jobs, by component."""
    return {component: template["spec"] for component, template in templates(values).items()}


def templates(values: Values) -> dict[str, Object]:
    """The same, with the metadata of the pods."""
    found = [one for one in rendered(values) if one["kind"] in ("Deployment", "Job")]
    return {one["metadata"]["labels"]["app.kubernetes.io/component"]: one["spec"]["template"] for one in found}


class Container(NamedTuple):
    """What a started container has."""

    command: list[str]
    environ: dict[str, str]
    files: dict[str, str]
    writable: list[str]


def started(case: Case, component: str) -> Container:
    """The container of a component. KeyError, if it needs an object, or a key of one, that is not there."""
    objects = [*rendered(case.values), *case.existing]
    if component == "migrate":  # a hook of the first installation: what is no hook is not there yet
        objects = [one for one in objects if "helm.sh/hook" in one["metadata"].get("annotations", {})]
        objects += case.existing
    cluster = {(one["kind"], one["metadata"]["name"]): texts_in(one) for one in objects}
    pod = pods(case.values)[component]
    (container,) = pod["containers"]
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    mounts = {mount["mountPath"]: volumes[mount["name"]] for mount in container["volumeMounts"]}
    return Container(
        container["args"],
        variables(stages(DOCKERFILE.read_text(encoding="utf-8"))[-1]) | environ_of(container, cluster),
        {f"{path}/{name}": text for path, one in mounts.items() for name, text in content(one, cluster).items()},
        [path for path, volume in mounts.items() if "emptyDir" in volume],
    )


def placed(container: Container, folder: Path) -> dict[str, str]:
    """Write the files of a container below a folder; its variables, which name them there."""
    paths = {*container.writable, *(path.rpartition("/")[0] for path in container.files)}
    for path, text in container.files.items():
        file = folder / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    longest_first = sorted(map(re.escape, paths), key=len, reverse=True)
    place = re.compile(rf"(?<![\w./-])({'|'.join(longest_first)})(?=[/,;&]|$)")
    return {name: place.sub(rf"{folder}\1", value) for name, value in container.environ.items()}


Cluster = dict[tuple[str, str], dict[str, str]]


def texts_in(one: Object) -> dict[str, str]:
    """The entries of a ConfigMap or a Secret."""
    data: dict[str, str] = one.get("data", {})
    if one["kind"] == "Secret":
        return {name: base64.b64decode(text).decode() for name, text in data.items()}
    return data


def content(volume: Object, cluster: Cluster) -> dict[str, str]:
    """The files of a volume."""
    if "secret" in volume:
        return cluster["Secret", volume["secret"]["secretName"]]
    return cluster["ConfigMap", volume["configMap"]["name"]] if "configMap" in volume else {}


def environ_of(container: Object, cluster: Cluster) -> dict[str, str]:
    """The variables of a container, as kubelet puts them together."""
    environ: dict[str, str] = {}
    for source in container.get("envFrom", []):
        ((kind, reference),) = source.items()
        environ |= cluster[SOURCES[kind], reference["name"]]
    for entry in container["env"]:
        value = value_of(entry, cluster)
        if value is not None:
            environ[entry["name"]] = REFERENCE.sub(lambda found: environ.get(found[1], found[0]), value)
    return environ


def value_of(entry: Object, cluster: Cluster) -> str | None:
    """The value of a variable; None for an optional one that is not there."""
    if "valueFrom" not in entry:
        return str(entry["value"])
    place = entry["valueFrom"]["secretKeyRef"]
    found = cluster["Secret", place["name"]]
    return found.get(place["key"]) if place.get("optional") else found[place["key"]]


def commanded(text: str) -> tuple[Object, ...]:
    """The objects that `kubectl create` lines in the comments at the head of an example make."""
    head = "\n".join(line.removeprefix("#").strip() for line in text.splitlines() if line.startswith("#"))
    lines = [line for line in head.replace("\\\n", " ").splitlines() if line.startswith("kubectl create")]
    return tuple(created(shlex.split(line)[2:]) for line in lines)


def created(words: list[str]) -> Object:
    """The Secret or ConfigMap of a `kubectl create` command."""
    name = words[2] if words[0] == "secret" else words[1]
    options = [word.partition("=") for word in words if word.startswith("--from-")]
    data = {}
    for option, _, rest in options:
        key, _, value = rest.partition("=")
        data[key] = value if option == "--from-literal" else f"content of {key}"
    found = secret(name, **data)
    return found if words[0] == "secret" else {"kind": "ConfigMap", "metadata": {"name": name}, "data": data}
