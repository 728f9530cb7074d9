"""The programs that are measured: installation, start and address. A target that can't be installed says why.

Peers are installed once, into a folder of their own (CCPROXY_BENCH_CACHE, else the user's cache), in these versions.
All of them reach the same stand-in, answer the same client, and keep their usual settings; what differs from those is
said here. Not here: measuring.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from msgspec import Struct

from bench import processes
from bench.traffic import KEY, MODEL

ROOT = Path(__file__).parents[1]
LITELLM = "litellm[proxy]==1.106.2"
PORTKEY = "@portkey-ai/gateway@1.15.2"
ROUTER = "@musistudio/claude-code-router@2.0.0"


class Place(Struct, frozen=True):
    """Ports and folders: the stand-in's port, the target's, a folder for its files, the peers' folder."""

    upstream: int
    port: int
    folder: Path
    cache: Path


class Missing(Exception):
    """A target that can't be had here, and why."""


class Target(Struct):
    """A target that runs. `own` picks, by its command line, the process that relays; None is all of them."""

    name: str
    port: int
    path: str = "/v1/messages"
    headers: dict[str, str] = {}
    process: "subprocess.Popen[bytes] | None" = None
    own: str | None = None
    version: str = ""

    def usage(self) -> processes.Usage:
        """Of all its processes."""
        return processes.usage(processes.tree(self.process.pid)) if self.process else processes.Usage()

    def own_usage(self) -> processes.Usage:
        """Of the process that relays alone."""
        return processes.usage(self.own_pids())

    def own_pids(self) -> list[int]:
        """The process that relays, or all of them."""
        family = processes.tree(self.process.pid) if self.process else []
        return [pid for pid in family if not self.own or self.own in processes.command_of(pid)]

    def stop(self) -> None:
        """End it."""
        if self.process:
            processes.stop(self.process)


Start = Callable[[Place], Target]


def direct(place: Place) -> Target:
    """No proxy at all."""
    return Target(name="direct", port=place.upstream, headers={"x-api-key": KEY})


def nginx(place: Place) -> Target:
    """One worker, no buffering, connections kept: as one sets it up for streams."""
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if not program:
        raise Missing("nginx is not installed; apt-get install nginx-light")
    config = place.folder / "nginx.conf"
    config.write_text(NGINX % {"folder": place.folder, "port": place.port, "upstream": place.upstream})
    version = subprocess.run([program, "-v"], capture_output=True, text=True, check=True).stderr.strip()
    command = [program, "-p", str(place.folder), "-c", str(config)]
    return started("nginx", place, command, {}, version=version, headers={"x-api-key": KEY})


NGINX = """
daemon off; worker_processes 1; pid %(folder)s/nginx.pid; error_log %(folder)s/nginx.error.log;
events { worker_connections 4096; }
http {
  access_log off; client_max_body_size 64m; client_body_buffer_size 256k;
  client_body_temp_path %(folder)s/body; proxy_temp_path %(folder)s/proxy; fastcgi_temp_path %(folder)s/f;
  uwsgi_temp_path %(folder)s/u; scgi_temp_path %(folder)s/s; keepalive_requests 1000000;
  upstream provider { server 127.0.0.1:%(upstream)s; keepalive 128; keepalive_requests 1000000; }
  server {
    listen 127.0.0.1:%(port)s backlog=2048;
    location / {
      proxy_pass http://provider; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off;
    }
  }
}
"""


def ccproxy(place: Place) -> Target:
    """`ccproxy up` with everything on: client keys, two routes, Valkey, a worker, Postgres; its log goes to a file."""
    return start_ccproxy(place, ROOT)


def ccproxy_of(checkout: Path) -> Start:
    """The same of another checkout, to compare with."""
    return lambda place: start_ccproxy(place, checkout.absolute())


def start_ccproxy(place: Place, checkout: Path) -> Target:
    """Start `ccproxy up` of a checkout, installed as users have it."""
    programs = install(checkout, place.folder / "installed")
    environ = clean_environ() | {
        "CCPROXY_HOME": str(place.folder),
        "PROXY_PORT": str(place.port),
        "PROXY_API_KEYS": f"bench:{KEY}",
        "ANTHROPIC_API_KEY": "sk-ant-bench",
        "ANTHROPIC_BASE_URL": f"http://127.0.0.1:{place.upstream}",
        "ANTHROPIC_WEEKLY_LIMIT": "900000000000000",
        "ZAI_API_KEY": "zai-bench",
        "ZAI_BASE_URL": f"http://127.0.0.1:{place.upstream}",
        **{name: value for name, value in os.environ.items() if name in ("UPSTREAM_TRANSPORT", "LOG_LEVEL")},
    }
    command = [str(programs / "ccproxy"), "up"]
    return started("ccproxy", place, command, environ, own=" serve", probe="/livez", headers={"x-api-key": KEY})


def install(checkout: Path, home: Path) -> Path:
    """Install a checkout with what its requirements.lock names; return the folder of its programs. Raises Missing.

    Packages that tests need are left out: others import what they find of them, which takes memory. Everything is
    compiled, since a process that compiles keeps memory of it.
    """
    uv, programs = shutil.which("uv", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}"), home / "bin"
    run([uv, "venv", "--python", sys.executable, home] if uv else [sys.executable, "-m", "venv", home])
    pip = [uv, "pip", "install", "--compile-bytecode", "--python", programs / "python"]
    pip = pip if uv else [programs / "python", "-m", "pip", "install"]
    run([*pip, "--require-hashes", "-r", checkout / "requirements.lock"])
    run([*pip, "--no-deps", "--no-build-isolation", checkout])
    return programs


def litellm(place: Place) -> Target:
    """LiteLLM's proxy, one worker, no database: its accounting is off where ours is on."""
    home = place.cache / LITELLM.replace("[proxy]", "").replace("==", "-")
    python = home / "bin" / "python"
    if not (home / "ready").exists():
        uv = shutil.which("uv")
        run([uv, "venv", "--clear", "--python", sys.executable, home] if uv else [sys.executable, "-m", "venv", home])
        pip = [uv, "pip", "install", "--python", python] if uv else [python, "-m", "pip", "install"]
        run([*pip, LITELLM])
        (home / "ready").touch()
    config = place.folder / "litellm.json"
    params = {"model": f"anthropic/{MODEL}", "api_base": f"http://127.0.0.1:{place.upstream}", "api_key": KEY}
    fields = {
        "model_list": [{"model_name": MODEL, "litellm_params": params}],
        "general_settings": {"master_key": KEY},
        "litellm_settings": {"telemetry": False},
    }
    config.write_text(json.dumps(fields))  # JSON is YAML
    command = [str(home / "bin" / "litellm"), "--config", str(config), "--host", "127.0.0.1", "--port", str(place.port)]
    environ = clean_environ() | {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "HOME": str(place.folder)}
    return started(
        "litellm", place, [*command, "--num_workers", "1"], environ, probe="/health/liveliness", version=LITELLM,
        headers={"x-api-key": KEY, "authorization": f"Bearer {KEY}"},
    )  # fmt: skip


def portkey(place: Place) -> Target:
    """Portkey's gateway: told by headers where to go."""
    home = node_package(place, PORTKEY)
    command = [node(), str(home / "@portkey-ai/gateway/build/start-server.js"), "--headless", f"--port={place.port}"]
    upstream = f"http://127.0.0.1:{place.upstream}/v1"
    headers = {"x-portkey-provider": "anthropic", "x-portkey-custom-host": upstream, "x-api-key": KEY}
    headers["authorization"] = f"Bearer {KEY}"
    return started("portkey", place, command, clean_environ(), version=PORTKEY, headers=headers)


def router(place: Place) -> Target:
    """claude-code-router, with one provider that speaks Anthropic's own API."""
    home = node_package(place, ROUTER)
    settings = place.folder / ".claude-code-router"
    settings.mkdir(exist_ok=True)
    fields = {
        "PORT": place.port,
        "HOST": "127.0.0.1",
        "APIKEY": KEY,
        "LOG": False,
        "NON_INTERACTIVE_MODE": True,
        "Providers": [
            {
                "name": "stand-in",
                "api_base_url": f"http://127.0.0.1:{place.upstream}/v1/messages",
                "api_key": KEY,
                "models": [MODEL],
                "transformer": {"use": ["Anthropic"]},
            }
        ],
        "Router": {"default": f"stand-in,{MODEL}"},
    }
    (settings / "config.json").write_text(json.dumps(fields))
    command = [node(), str(home / "@musistudio/claude-code-router/dist/cli.js"), "start"]
    environ = clean_environ() | {"HOME": str(place.folder), "SERVICE_PORT": str(place.port)}
    headers = {"x-api-key": KEY, "authorization": f"Bearer {KEY}"}
    return started("claude-code-router", place, command, environ, version=ROUTER, headers=headers)


TARGETS: dict[str, Start] = {
    "direct": direct,
    "nginx": nginx,
    "ccproxy": ccproxy,
    "litellm": litellm,
    "portkey": portkey,
    "claude-code-router": router,
}


def started(
    name: str,
    place: Place,
    command: list[str],
    environ: Mapping[str, str],
    *,
    probe: str = "/",
    own: str | None = None,
    version: str = "",
    headers: dict[str, str],
) -> Target:
    """Start a target and wait until it answers. Raises Missing."""
    path = place.folder / f"{name}.log"
    with path.open("wb") as log:
        process = processes.start(command, log, environ or clean_environ(), place.folder)
    target = Target(name=name, port=place.port, headers=headers, process=process, own=own, version=version)
    try:
        processes.wait_until_it_answers(f"http://127.0.0.1:{place.port}{probe}", process, path)
    except RuntimeError as error:
        target.stop()
        raise Missing(str(error)) from None
    return target


def clean_environ() -> dict[str, str]:
    """The environment without what could lead a target elsewhere."""
    kept = ("PATH", "HOME", "LANG", "TMPDIR", "USER")
    return {name: value for name, value in os.environ.items() if name in kept}


def node() -> str:
    """Node. Raises Missing."""
    found = shutil.which("node")
    if not found or not shutil.which("npm"):
        raise Missing("Node and npm are not installed")
    return found


def node_package(place: Place, package: str) -> Path:
    """A package's node_modules, installed if need be. Raises Missing."""
    node()
    home = place.cache / package.strip("@").replace("/", "-").replace("@", "-")
    if not (home / "ready").exists():
        home.mkdir(parents=True, exist_ok=True)
        run(["npm", "install", "--prefix", home, "--no-audit", "--no-fund", package])
        (home / "ready").touch()
    return home / "node_modules"


def run(command: list[object]) -> None:
    """Install. Raises Missing."""
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)  # noqa: PLW1510
    if done.returncode:
        raise Missing(f"{command[0]} failed: {done.stderr[-400:]}")


def cache_folder() -> Path:
    """Return the folder in which peers are installed."""
    given = os.environ.get("CCPROXY_BENCH_CACHE")
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(given) if given else base / "ccproxy-bench"
