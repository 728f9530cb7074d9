"""The settings of `service.routing`: circuits, retries, quotas, the limits of models, the rules for errors."""

from typing import Annotated

from msgspec import Meta, Struct, field

from service.settings import values
from service.settings.failure_rules import Rules, packaged_rules
from service.settings.quota import QuotaPolicy
from service.settings.setting import Section, Setting


class CircuitPolicy(Struct, frozen=True):
    """When a circuit opens, and for how long."""

    enabled: Annotated[
        bool, Setting("CIRCUIT_BREAKER_ENABLED", Section.CIRCUITS, "`false`: failures never open a circuit")
    ] = True
    degraded_failures: Annotated[
        int,
        Setting(
            "CIRCUIT_BREAKER_DEGRADED_THRESHOLD",
            Section.CIRCUITS,
            "failures in a row after which a route is shown as degraded",
            least=1,
        ),
    ] = 3
    trip_failures: Annotated[
        int,
        Setting(
            "CIRCUIT_BREAKER_UNAVAILABLE_THRESHOLD",
            Section.CIRCUITS,
            "failures in a row that open the circuit",
            least=1,
        ),
    ] = 5
    open_ms: Annotated[
        int,
        Setting(
            "CIRCUIT_BREAKER_COOLDOWN_MS",
            Section.CIRCUITS,
            "how long an open circuit stays open at first, and a throttle without an end lasts",
            least=1,
        ),
    ] = 10_000
    open_cap_ms: int = 600_000
    window_ms: int = 30_000
    window_attempts: int = 20
    window_ratio: float = 0.5
    slow_ms: int = 60_000


class ModelLimits(Struct, frozen=True, forbid_unknown_fields=True):
    """The limits and input types of a model; None is unknown.

    `context_tokens` is the largest prompt, `output_tokens` the most that `max_tokens` may ask for.
    """

    context_tokens: Annotated[int, Meta(ge=1)] | None = None
    output_tokens: Annotated[int, Meta(ge=1)] | None = None
    reads_images: bool | None = None


class Policy(Struct, frozen=True):
    """All that `service.routing` decides with. `models` are patterns of names, in the order in which they are tried."""

    circuit: CircuitPolicy = CircuitPolicy()
    models: tuple[tuple[str, ModelLimits], ...] = ()
    quota: QuotaPolicy = QuotaPolicy()
    rules: Rules = field(default_factory=packaged_rules)
    warning_percent: Annotated[
        float,
        Setting(
            "QUOTA_WARNING_THRESHOLD",
            Section.ROUTING,
            "percentage of a weekly limit from which other routes go first",
            least=1,
            most=100,
        ),
    ] = 90
    fallback_on_codes: Annotated[
        tuple[int, ...],
        Setting(
            "FALLBACK_ON_CODES",
            Section.ROUTING,
            "HTTP statuses that cause failover, comma-separated; empty: the built-in rules",
            parse=values.status_codes,
        ),
    ] = ()
    model_map: Annotated[
        dict[str, str],
        Setting(
            "MODEL_FALLBACK_MAP",
            Section.ROUTING,
            "model names to replace in every request: a JSON object, or `from=to,from=to`",
            parse=values.model_map,
        ),
    ] = {}
    max_retries: Annotated[
        int,
        Setting(
            "API_MAX_RETRIES",
            Section.LIMITS,
            "most attempts of a request beyond one per route; a timeout is never repeated",
            most=10,
        ),
    ] = 3
    retry_delay_ms: Annotated[
        int,
        Setting(
            "API_RETRY_DELAY_MS",
            Section.LIMITS,
            "shortest wait before a throttled route is asked again, when no other is left",
            most=60_000,
        ),
    ] = 1_000
    wait_ms: int = 10_000
    """A throttle that names no end holds this long: it is seldom worse than a short outage."""
    quota_wait_ms: int = 60_000
    """A used-up quota or window that names no end holds this long."""
    credential_wait_ms: int = 300_000
    """A credential that was refused is tried again after this long."""
    missing_model_ms: int = 3_600_000
    """A model that the provider denied is asked for again after this long."""
