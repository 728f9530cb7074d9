"""What docker-compose.yml and `.env.docker.example` set for the proxy and the workers."""

from pathlib import Path

from service.settings.invoice import FOR_INVOICE

ROOT = Path(__file__).resolve().parents[2]
ENV_DOCKER_EXAMPLE = ROOT / ".env.docker.example"
DOCKER_MARK = "# ==== Settings of the proxy and the workers: make docs writes all that follows\n"
# What the image and docker-compose.yml say, what only `ccproxy up` reads, and what is for one command alone, is not for
# .env.docker.
FIXED_IN_CONTAINERS = FOR_INVOICE | frozenset((
    "CCPROXY_CONFIG", "CCPROXY_HOME", "CCPROXY_POSTGRES_BIN", "CCPROXY_REDIS_BIN", "CLAUDE_CREDENTIALS_PATH",
    "DB_HOST", "DB_NAME", "DB_PASSWORD", "DB_PORT", "DB_USER", "METRICS_TOKEN", "PROXY_HOST", "PROXY_PORT",
))  # fmt: skip


def container_defaults() -> dict[str, str]:
    """What containers are told before `.env.docker` is read."""
    lines = (ROOT / "deploy" / "compose.env").read_text(encoding="utf-8").splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))
