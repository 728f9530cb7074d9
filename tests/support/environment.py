"""Variables of a developer's environment that no test may see: the product's, Claude Code's, and those of libraries."""

from service.settings.variables import VARIABLES

PREFIXES = ("ANTHROPIC_", "CLAUDE", "CCPROXY_", "DB_", "OTEL_", "PG", "PROXY_", "ZAI_")
PROXIES = frozenset(f"{name}_PROXY" for name in ("ALL", "HTTP", "HTTPS", "NO"))
OTHERS = frozenset(("API_TIMEOUT_MS", "FORCE_COLOR", "NO_COLOR", "SSL_CERT_DIR", "XDG_CONFIG_HOME", "XDG_STATE_HOME"))
NAMES = PROXIES | OTHERS | {variable.name for variable in VARIABLES}


def is_foreign(exported: str) -> bool:
    """Whether tests run without this variable."""
    name = exported.upper()
    return name.startswith(PREFIXES) or name.removesuffix("_FILE") in NAMES or name in NAMES
