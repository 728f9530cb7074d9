"""Settings: frozen structs, read once from the environment, `.env` and a TOML file, then trusted.

Not here: deciding anything with them (that is `service.routing`), or reading them again while running.

The environment variables are those of the original proxy, by name and meaning. Each is declared once, in the annotation
of the field that holds its value (`setting`); `VARIABLES`, docs/settings.md and `.env.example` are derived from that.
The TOML file holds what variables can't (several routes of one provider, own providers, model maps); there, an unknown
key is an error. An error names its place and how to fix it.
"""

from service.errors import SettingsError
from service.settings.files import read_dotenv
from service.settings.invoice import InvoiceSettings
from service.settings.loading import from_variables, load
from service.settings.policy import CircuitPolicy, ModelLimits, Policy
from service.settings.providers import ANTHROPIC, CLIENT_ROUTE_ID, ZAI, Provider, Route
from service.settings.quota import WEEKDAYS, QuotaPolicy, QuotaWeights, minute_of_week
from service.settings.reader import Reader
from service.settings.secret import Secret, StaticKey
from service.settings.shapes import (
    LOOPBACK_HOSTS,
    BodyLimits,
    ClientCredentials,
    LogLevel,
    OAuth,
    Settings,
    StripThinking,
    Timeouts,
    Truncation,
    UpstreamTransport,
)
from service.settings.values import Network, model_map, port_of
from service.settings.variables import FOR_WORKERS, SECRETS, VARIABLES, Variable
from service.settings.workers import load_for_invoice, load_for_workers, worker_environ

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
    "InvoiceSettings",
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
    "SettingsError",
    "StaticKey",
    "StripThinking",
    "Timeouts",
    "Truncation",
    "UpstreamTransport",
    "Variable",
    "from_variables",
    "load",
    "load_for_invoice",
    "load_for_workers",
    "minute_of_week",
    "model_map",
    "port_of",
    "read_dotenv",
    "worker_environ",
]
