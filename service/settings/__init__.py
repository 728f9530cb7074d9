"""Settings: frozen records, read once from the environment, `.env` and a TOML file, then trusted.

Not here: deciding anything with them (that is `service.routing`), or reading them again while running.

The environment variables are those of the original proxy, by name and meaning; `VARIABLES` is the one list of them,
from which `docs/settings.md` and `.env.example` are generated. The TOML file holds what variables can't (several routes
of one provider, own providers, model maps); there, an unknown key is an error. An error names its place and the fix.
"""

from service.settings.files import read_dotenv, unquoted
from service.settings.loading import from_variables, load
from service.settings.reader import Reader, port_of
from service.settings.shapes import (
    ANTHROPIC,
    CLIENT_ROUTE_ID,
    LOOPBACK_HOSTS,
    ZAI,
    BodyLimits,
    CircuitPolicy,
    ClientCredentials,
    LogLevel,
    ModelLimits,
    Network,
    OAuth,
    Policy,
    Provider,
    QuotaPolicy,
    QuotaWeights,
    Route,
    Secret,
    Settings,
    StaticKey,
    StripThinking,
    Timeouts,
    Truncation,
    UpstreamTransport,
)
from service.settings.values import WEEKDAYS, minute_of_week, model_map
from service.settings.variables import FOR_WORKERS, SECRETS, VARIABLES, Variable
from service.settings.workers import load_for_workers, worker_environ

__all__ = [
    "ANTHROPIC",
    "CLIENT_ROUTE_ID",
    "FOR_WORKERS",
    "LOOPBACK_HOSTS",
    "SECRETS",
    "VARIABLES",
    "WEEKDAYS",
    "ZAI",
    "BodyLimits",
    "CircuitPolicy",
    "ClientCredentials",
    "LogLevel",
    "ModelLimits",
    "Network",
    "OAuth",
    "Policy",
    "Provider",
    "QuotaPolicy",
    "QuotaWeights",
    "Reader",
    "Route",
    "Secret",
    "Settings",
    "StaticKey",
    "StripThinking",
    "Timeouts",
    "Truncation",
    "UpstreamTransport",
    "Variable",
    "from_variables",
    "load",
    "load_for_workers",
    "minute_of_week",
    "model_map",
    "port_of",
    "read_dotenv",
    "unquoted",
    "worker_environ",
]
