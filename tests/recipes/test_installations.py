"""The recipes for installations: a team on two accounts, behind Caddy, and a job of GitHub Actions."""

from __future__ import annotations

import os
import re
import shlex
import ssl
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import yaml

from tests.fakes import FakeProvider
from tests.recipes import scenario
from tests.recipes.caddy import Site, caddy, python_variables
from tests.recipes.packages import node
from tests.recipes.page import recipes
from tests.recipes.product import Product
from tests.recipes.workspace import Workspace, installed_programs, machines_program
from tests.support import claude_code
from tests.support.actionlint import linted
from tests.support.ports import free_port
from tests.support.processes import ROOT
from tests.support.wheels import build_wheel

if TYPE_CHECKING:
    from tests.recipes.page import Recipe

pytestmark = pytest.mark.timeout(600)
READ = "Read"
SITE = "ccproxy.example.com"
REGISTRIES = ("NODE_EXTRA_CA_CERTS", "NPM_", "PIP_", "UV_", "npm_")
SECRET = re.compile(r"\$\{\{ secrets\.(\w+) \}\}")
USED = ("actions/checkout@", "actions/setup-node@", "astral-sh/setup-uv@")
"""Actions that do nothing but bring what the test's machine has."""


def test_two_accounts_and_a_team(anthropic: FakeProvider, upstreams: dict[str, str], tmp_path: Path) -> None:
    """A member's key works within its limits; when the first account is overloaded, the second one answers."""
    home, work = folders(tmp_path, "product", "work")
    recipe = recipes()["Two accounts and a team"]
    with FakeProvider("anthropic", keys={"second-account"}) as second:
        config = with_addresses(recipe.files["ccproxy.toml"], anthropic.base_url, second.base_url)
        (home / "ccproxy.toml").write_text(config, encoding="utf-8")
        variables = {"FIRST_API_KEY": upstreams["ANTHROPIC_API_KEY"], "SECOND_API_KEY": "second-account"}
        with Product(home, variables, recipe.start) as product:
            scenario.script(anthropic, second, READ, {"file_path": str(work / "note.txt")})
            alices = Workspace(work, recipe.at(product.url), installed_programs(), {"CCPROXY_HOME": str(home)})
            alices.type(alices.recipe.commands).check(recipe.seen)
            alices.type(["ccproxy usage --by key,route"]).check("alice")
            alice, bob = (key_in(work / name) for name in ("alice.key", "bob.key"))
            told = product.requests(key_id(alice)).values()
            scenario.check(anthropic, second, told, routes=("first", "second"), resent=False)
            check_limits(anthropic, product.url, bob)


def check_limits(anthropic: FakeProvider, url: str, bob: str) -> None:
    """Nobody is served without a key, nor with a model that his key is not for."""
    anthropic.reset()
    with httpx.Client(base_url=url, trust_env=False, headers={"anthropic-version": "2023-06-01"}, timeout=30) as http:
        keyed = {"authorization": f"Bearer {bob}"}
        assert http.post("/v1/messages", json=message("claude-haiku-4-5")).status_code == 401
        assert http.post("/v1/messages", json=message("claude-opus-4-8"), headers=keyed).status_code == 400
        assert http.post("/v1/messages", json=message("claude-haiku-4-5"), headers=keyed).status_code == 200


def message(model: str) -> dict[str, Any]:
    """A request."""
    return {"model": model, "max_tokens": 16, "messages": [{"role": "user", "content": "hello"}]}


def folders(parent: Path, *names: str) -> list[Path]:
    """New folders."""
    made = [parent / name for name in names]
    for folder in made:
        folder.mkdir()
    return made


def key_in(file: Path) -> str:
    """The key that a command has written."""
    return file.read_text(encoding="utf-8").strip()


def with_addresses(config: str, *addresses: str) -> str:
    """A configuration whose routes are at these addresses."""
    before, *routes = config.split('provider = "anthropic"\n')
    assert len(routes) == len(addresses)
    pairs = zip(addresses, routes, strict=True)
    return before + "".join(f'provider = "anthropic"\nbase_url = "{address}"\n{rest}' for address, rest in pairs)


def key_id(key: str) -> str:
    """The id in a key."""
    return key.rpartition("_")[0].partition("_")[2]


def test_behind_caddy(anthropic: FakeProvider, zai: FakeProvider, upstreams: dict[str, str], tmp_path: Path) -> None:
    """Over TLS, a client with a key is served, one without is not, and nobody sees the dashboard."""
    home, work, issuing = folders(tmp_path, "product", "work", "issuing")
    recipe = recipes()["Behind Caddy"]
    (home / ".env").write_text(recipe.files[".env"], encoding="utf-8")
    with Product(home, upstreams, recipe.start) as product:
        *issue, run_caddy = recipe.commands
        assert run_caddy == "caddy run"
        operators = Workspace(issuing, recipe, installed_programs(), {"CCPROXY_HOME": str(home)})
        assert operators.type(issue).status == 0
        key = key_in(issuing / "alice.key")
        caddyfile = recipe.files["Caddyfile"].replace("127.0.0.1:4181", f"127.0.0.1:{product.port}")
        with caddy(tmp_path, caddyfile) as site:
            scenario.script(anthropic, zai, "weather", {"city": "Oslo"})
            client = client_at_site(recipe, key)
            alices = Workspace(work, client, installed_programs(), python_variables(tmp_path, SITE, site))
            alices.type(client.commands).check(client.seen)
            check_what_is_public(site)
        told = product.requests(key_id(key)).values()
        scenario.check(anthropic, zai, told, routes=("anthropic", "zai"), resent=True)


def check_what_is_public(site: Site) -> None:
    """The Messages API for those with a key, and health."""
    trusted = ssl.create_default_context(cafile=str(site.root_certificate))
    url, by_name = f"https://127.0.0.1:{site.port}", {"sni_hostname": SITE}
    paths = {"/dashboard": 404, "/metrics": 404, "/admin/api/overview": 404, "/readyz": 200, "/v1/models": 401}
    with httpx.Client(base_url=url, trust_env=False, verify=trusted, headers={"host": SITE}) as http:
        assert {path: http.get(path, extensions=by_name).status_code for path in paths} == paths


def client_at_site(recipe: Recipe, key: str) -> Recipe:
    """The program of another recipe with the client of this one."""
    [client] = re.findall(r"^client = .*$", recipe.text, re.MULTILINE)
    assert SITE in client
    python = recipes()["Python SDK"]
    text, changed = re.subn(
        r"^client = .*$", client.replace('"..."', f'"{key}"'), python.files["weather.py"], flags=re.MULTILINE
    )
    assert changed == 1
    return python._replace(files={"weather.py": text})


def test_in_github_actions(
    anthropic: FakeProvider, zai: FakeProvider, upstreams: dict[str, str], tmp_path: Path
) -> None:
    """actionlint finds nothing; its steps, as a runner runs them, start the wheel, through which Claude Code asks."""
    runner, dist = folders(tmp_path, "runner", "dist")
    port = free_port()
    recipe = recipes()["In GitHub Actions"].at(f"http://127.0.0.1:{port}")
    programs = {"node": node(), "npm": machines_program("npm"), "uvx": machines_program("uvx")}
    variables = runners_variables(tmp_path, build_wheel(ROOT, dist).parent) | {"PROXY_PORT": str(port)}
    variables |= {name: value for name, value in upstreams.items() if name.endswith("_BASE_URL")}
    job = Workspace(runner, recipe, programs, variables)
    done = linted(runner)
    assert done.returncode == 0, done.stdout + done.stderr
    scenario.script(anthropic, zai, READ, {"file_path": str(runner / "note.txt")})
    said = job.type(typed(step, upstreams) for step in steps_of(workflow_of(recipe)))
    said.check(recipe.seen)
    said.check("zai")
    scenario.check_providers(anthropic, zai, resent=False)


def workflow_of(recipe: Recipe) -> str:
    """The workflow in a recipe."""
    [text] = [text for name, text in recipe.files.items() if name.startswith(".github/workflows/")]
    return text


def steps_of(workflow: str) -> list[dict[str, Any]]:
    """The steps of the only job that run something; all others bring what is here already."""
    [job] = yaml.safe_load(workflow)["jobs"].values()
    assert all(step["uses"].startswith(USED) for step in job["steps"] if "uses" in step)
    return [step for step in job["steps"] if "run" in step]


def typed(step: dict[str, Any], secrets: dict[str, str]) -> str:
    """A step as a runner starts it, in a shell of its own; what it leaves running ends with the job."""
    given = step.get("env", {}).items()
    variables = {name: SECRET.sub(lambda match: secrets[match[1]], value) for name, value in given}
    assert "${{" not in f"{step['run']}{variables}"
    words = ["env", *(f"{name}={value}" for name, value in variables.items()), "/bin/bash", "-e", "-c", step["run"]]
    return shlex.join(words)


def runners_variables(folder: Path, dist: Path) -> dict[str, str]:
    """The environment of a runner: this machine's way to its registries, and a package index that has the wheel."""
    return {name: value for name, value in os.environ.items() if name.startswith(REGISTRIES)} | {
        "CCPROXY_HOME": str(folder / "state"),
        "NPM_CONFIG_CACHE": str(Path.home() / ".npm"),
        "NPM_CONFIG_PREFIX": str(folder / "runner"),
        "NPM_CONFIG_USERCONFIG": str(Path.home() / ".npmrc"),
        "RUNNER_TEMP": str(folder),
        "UV_CACHE_DIR": uv_cache(),
        "UV_FIND_LINKS": str(dist),
        "UV_PYTHON": sys.executable,
        "UV_PYTHON_DOWNLOADS": "never",
        "UV_SYSTEM_CERTS": "true",
    }


def uv_cache() -> str:
    """Where this machine's uv keeps packages."""
    command = [str(machines_program("uv")), "cache", "dir"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_the_workflow_has_the_tested_release() -> None:
    """Of Claude Code, so that the page does not fall behind."""
    assert f"@anthropic-ai/claude-code@{claude_code.VERSION}\n" in workflow_of(recipes()["In GitHub Actions"])
