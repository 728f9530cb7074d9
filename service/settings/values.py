"""Groups of settings made of variables: policy, quotas, time-outs, keys, addresses of the servers."""

import ipaddress
import re
import tomllib
from importlib import resources
from urllib.parse import quote
from zoneinfo import ZoneInfo

import msgspec

from service.errors import SettingsError
from service.ledger.price import Price, PriceList
from service.settings.failure_rules import packaged_rules
from service.settings.files import File
from service.settings.reader import Reader
from service.settings.redis_url import place_of
from service.settings.shapes import (
    CLAUDE_CODE_CLIENT_ID,
    LOG_LEVELS,
    LOOPBACK_HOSTS,
    BodyLimits,
    CircuitPolicy,
    DrainTimes,
    LogLevel,
    ModelLimits,
    Network,
    OAuth,
    Policy,
    QuotaPolicy,
    QuotaWeights,
    Secret,
    StaticKey,
    Timeouts,
    Truncation,
)

SHARE_KEY_CHARS = 32
"""Too many to be guessed: what is sealed lies where others may read it."""
LEDGER_KEYS = "ledger"
"""The word in PROXY_API_KEYS that says: keys are issued with `ccproxy keys`, and one must be shown."""
WEEKDAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
MOST_WEIGHT = 1_000
BASE_PATH = re.compile(r"[A-Za-z0-9_~-][A-Za-z0-9._~-]*(?:/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)*")
"""What reads the same in a URL and out of it."""
HOST_NAME = re.compile(r"[a-z0-9_](?:[a-z0-9._-]{0,251}[a-z0-9_])?|[0-9a-f:.]{2,45}")
ORIGIN = re.compile(
    r"[a-z][a-z0-9+.-]*://(?:[a-z0-9_](?:[a-z0-9._-]{0,251}[a-z0-9_])?|\[[0-9a-f:.]{2,45}\])(?::\d{1,5})?"
)
USUAL_PORTS = {"http": ":80", "https": ":443"}


def oauth(read: Reader) -> OAuth:
    """How the subscription's tokens are refreshed and shared."""
    share_key = read.text("CLAUDE_OAUTH_SHARE_KEY")
    if share_key and len(share_key) < SHARE_KEY_CHARS:
        raise SettingsError(
            f"CLAUDE_OAUTH_SHARE_KEY: shorter than {SHARE_KEY_CHARS} characters; make one: openssl rand -hex 32"
        )
    return OAuth(
        refresh_url=read.url("CLAUDE_OAUTH_REFRESH_URL", OAuth().refresh_url),
        client_id=read.text("CLAUDE_OAUTH_CLIENT_ID", CLAUDE_CODE_CLIENT_ID),
        skew_ms=read.integer("CLAUDE_OAUTH_REFRESH_SKEW_MS", 300_000),
        share_key=Secret(share_key),
    )


def base_path(text: str) -> str:
    """A path prefix with a leading and without a trailing slash. Raises SettingsError."""
    stripped = text.strip("/")
    if stripped and not BASE_PATH.fullmatch(stripped):
        raise SettingsError(
            f"PROXY_BASE_PATH: {text!r} has more than letters, digits, `-`, `_`, `~` and inner dots between its "
            "slashes; give a prefix such as /anthropic"
        )
    if stripped.partition("/")[0].lower() == "v1":
        raise SettingsError(
            "PROXY_BASE_PATH: /v1 is the Messages API's own path, which balancers open to clients; give another prefix"
        )
    return f"/{stripped}" if stripped else ""


def networks(text: str) -> tuple[Network, ...]:
    """Addresses and networks, comma-separated."""
    try:
        return tuple(ipaddress.ip_network(part.strip(), strict=False) for part in text.split(",") if part.strip())
    except ValueError as error:
        raise SettingsError(f"TRUSTED_PROXIES: {error}; give addresses or networks such as 10.0.0.0/8") from None


def host_names(text: str) -> tuple[str, ...]:
    """Names and addresses without scheme and port, comma-separated."""
    names = tuple(part.lower().strip("[]").removesuffix(".") for part in listed(text))
    for name in names:
        if not HOST_NAME.fullmatch(name):
            raise SettingsError(
                f"ALLOWED_HOSTS: {name!r} is no host name; give names without scheme and port, such as proxy.example"
            )
    return names


def origins(text: str) -> tuple[str, ...]:
    """Origins of web pages, comma-separated, as browsers send them: the usual port of a scheme is left out."""
    found = []
    for part in listed(text):
        origin = part.lower().removesuffix("/")
        if not ORIGIN.fullmatch(origin):
            raise SettingsError(
                f"ALLOWED_ORIGINS: {part!r} is no origin; give each as scheme and host, such as https://app.example "
                "(`*` and `null` would let any web page in)"
            )
        port = USUAL_PORTS.get(origin.partition(":")[0], "")
        found.append(origin.removesuffix(port) if port else origin)
    return tuple(found)


def drain(read: Reader) -> DrainTimes:
    """How long to take leave: on the loopback nobody balances, and Ctrl-C should end soon."""
    local = read.text("PROXY_HOST", "127.0.0.1") in LOOPBACK_HOSTS
    return DrainTimes(
        delay_ms=read.duration_ms("DRAIN_DELAY", 0 if local else 5_000),
        limit_ms=read.duration_ms("DRAIN_TIMEOUT", 10_000 if local else 600_000),
    )


def token(read: Reader, name: str) -> Secret:
    """A token that operators show, long enough not to be guessed."""
    text = read.text(name)
    if text and len(text) < 16:
        raise SettingsError(f"{name}: shorter than 16 characters; make one: openssl rand -hex 24")
    return Secret(text)


def listed(text: str) -> list[str]:
    """The parts of a comma-separated list."""
    return [part.strip() for part in text.split(",") if part.strip()]


def static_keys(text: str) -> tuple[StaticKey, ...]:
    """Client keys from `name:key,key`; a key without a name is called after its place in the list."""
    keys = []
    for number, part in enumerate((part for part in listed(text) if part != LEDGER_KEYS), start=1):
        name, colon, key = (piece.strip() for piece in part.partition(":"))
        if not colon:
            name, key = "", part
        if len(key) < 16:
            raise SettingsError(
                f"PROXY_API_KEYS: key {number} is shorter than 16 characters; make one: openssl rand -hex 24"
            )
        keys.append(StaticKey(name or f"key-{number}", Secret(key), has_name=bool(name)))
    return tuple(keys)


def log_level(read: Reader) -> LogLevel:
    """The log level; a word that is none means info, as in the original."""
    word = read.text("LOG_LEVEL", "info").lower()
    return next((level for level in LOG_LEVELS if level == word), "info")


def policy(read: Reader, file: File) -> Policy:
    """What routing decides with."""
    circuit = CircuitPolicy(
        enabled=read.flag("CIRCUIT_BREAKER_ENABLED", True),
        degraded_failures=read.integer("CIRCUIT_BREAKER_DEGRADED_THRESHOLD", 3, least=1),
        trip_failures=read.integer("CIRCUIT_BREAKER_UNAVAILABLE_THRESHOLD", 5, least=1),
        open_ms=read.integer("CIRCUIT_BREAKER_COOLDOWN_MS", 60_000, least=1),
        open_cap_ms=max(600_000, read.integer("CIRCUIT_BREAKER_COOLDOWN_MS", 60_000)),
    )
    return Policy(
        circuit=circuit,
        models=model_limits(file),
        quota=quota_policy(read),
        rules=packaged_rules().behind(file.failures, file.windows),
        warning_percent=read.number("QUOTA_WARNING_THRESHOLD", 90, least=1, most=100),
        fallback_on_codes=status_codes(read.text("FALLBACK_ON_CODES")),
        model_map=model_map(read.text("MODEL_FALLBACK_MAP")),
        max_retries=read.integer("API_MAX_RETRIES", 3, most=10),
        retry_delay_ms=read.integer("API_RETRY_DELAY_MS", 1_000, most=60_000),
        wait_ms=circuit.open_ms,
    )


def quota_policy(read: Reader) -> QuotaPolicy:
    """How weekly limits are counted."""
    return QuotaPolicy(
        weights=quota_weights(read.text("QUOTA_WEIGHTS")),
        week_start_minute=minute_of_week(read.text("QUOTA_WEEK_START", "mon 00:00")),
        timezone=time_zone(read.text("QUOTA_TIMEZONE", "UTC")),
    )


def quota_weights(text: str) -> QuotaWeights:
    """Weights from `kind=number` pairs; a kind that is left out keeps its own."""
    given: dict[str, float] = {}
    for pair in (part for part in text.split(",") if part.strip()):
        kind, _, number = (piece.strip() for piece in pair.partition("="))
        try:
            given[kind] = float(number)
        except ValueError:
            raise SettingsError(f"QUOTA_WEIGHTS: {pair.strip()!r} is no pair such as cache_read=0.1") from None
        if kind not in QuotaWeights.__struct_fields__:
            raise SettingsError(f"QUOTA_WEIGHTS: {kind!r} is none of {', '.join(QuotaWeights.__struct_fields__)}")
        if not 0 <= given[kind] <= MOST_WEIGHT:
            raise SettingsError(f"QUOTA_WEIGHTS: {kind}={number} is not between 0 and {MOST_WEIGHT}")
    return QuotaWeights(**given)


def minute_of_week(text: str) -> int:
    """Minutes since Monday 00:00, of a text such as `fri 18:30`."""
    day, _, clock = text.lower().partition(" ")
    hour, _, minute = clock.strip().partition(":")
    known = day[:3] in WEEKDAYS and hour.isdecimal() and minute.isdecimal() and len(minute) == 2
    if not known or int(hour) > 23 or int(minute) > 59:
        raise SettingsError(f"QUOTA_WEEK_START: {text!r} is no day and time such as mon 00:00")
    return (WEEKDAYS.index(day[:3]) * 24 + int(hour)) * 60 + int(minute)


def time_zone(name: str) -> str:
    """The name of a time zone that is known here."""
    try:
        return ZoneInfo(name).key
    except (KeyError, ValueError, OSError):  # unknown; no name at all; a folder of the database
        raise SettingsError(
            f"QUOTA_TIMEZONE: {name!r} is no time zone; give one such as UTC or Europe/Berlin"
        ) from None


def prices(file: File) -> PriceList:
    """The packaged list of prices, with the file's own over it; those make it another version."""
    packaged = tomllib.loads(resources.files("service.ledger").joinpath("prices.toml").read_text(encoding="utf-8"))
    version = packaged.pop("version")
    known = msgspec.convert(
        {name: price for vendor in packaged.values() for name, price in vendor.items()}, dict[str, Price]
    )
    return PriceList(version + "+own" if file.prices else version, known | file.prices)


def model_limits(file: File) -> tuple[tuple[str, ModelLimits], ...]:
    """What models can hold and read: the file's own entries before the packaged ones."""
    packaged = tomllib.loads(resources.files("service.routing").joinpath("models.toml").read_text(encoding="utf-8"))
    known = {name: limits for vendor in packaged.values() for name, limits in vendor.items()}
    return (*file.models.items(), *msgspec.convert(known, dict[str, ModelLimits]).items())


def truncation(read: Reader) -> Truncation:
    """Whether and from where on conversations are cut; without a limit they aren't, as in the original."""
    limit_tokens = read.integer("CONTEXT_WINDOW_LIMIT", 200_000)
    return Truncation(
        enabled=read.flag("CONTEXT_WINDOW_ENABLED", False) and limit_tokens > 0,
        limit_tokens=limit_tokens,
        threshold=read.number("CONTEXT_WINDOW_TRUNCATION_THRESHOLD", 0.8, least=0.01, most=1),
    )


def bodies(read: Reader) -> BodyLimits:
    """Bounds on what a request's body may cost."""
    return BodyLimits(
        expansion=read.integer("MAX_BODY_EXPANSION", 20, least=1),
        json_depth=read.integer("MAX_JSON_DEPTH", 200, least=16, most=500),
        content_blocks=read.integer("MAX_CONTENT_BLOCKS", 200_000, least=100),
        held_bytes=read.integer("MAX_HELD_BODY_BYTES", 268_435_456, least=1_048_576),
    )


def status_codes(text: str) -> tuple[int, ...]:
    """HTTP statuses, comma-separated."""
    codes = tuple(part.strip() for part in text.strip("[] ").split(",") if part.strip())
    if not all(code.isdecimal() and 400 <= int(code) <= 599 for code in codes):
        raise SettingsError(f"FALLBACK_ON_CODES: {text!r} is no list of HTTP statuses from 400 to 599")
    return tuple(int(code) for code in codes)


def model_map(text: str) -> dict[str, str]:
    """A model map from a JSON object or `from=to` pairs."""
    if not text:
        return {}
    try:
        if text.startswith("{"):
            return msgspec.json.decode(text, type=dict[str, str])
        pairs = [pair.partition("=") for pair in text.split(",") if pair.strip()]
    except msgspec.DecodeError as error:
        raise SettingsError(f"MODEL_FALLBACK_MAP: no JSON object of texts ({error})") from None
    if not all(name.strip() and target.strip() for name, _, target in pairs):
        raise SettingsError("MODEL_FALLBACK_MAP: give a JSON object, or pairs such as claude-opus=claude-opus-4-8")
    return {name.strip(): target.strip() for name, _, target in pairs}


def timeouts(read: Reader) -> Timeouts:
    """Bounds on every wait of a request."""
    return Timeouts(
        connect_ms=read.integer("API_CONNECT_TIMEOUT_MS", 10_000, least=1),
        first_byte_ms=read.integer("API_FIRST_BYTE_TIMEOUT_MS", 120_000, least=1),
        request_ms=read.integer("API_TIMEOUT_MS", 600_000, least=1),
        stream_ms=read.integer("API_STREAMING_TIMEOUT_MS", 600_000, least=1),
        idle_ms=read.integer("API_STREAM_IDLE_TIMEOUT_MS", 300_000, least=1),
    )


def redis_url(read: Reader, name: str) -> str | None:
    """A Redis address; it may hold a password, so that no error repeats it."""
    text = read.text(name)
    try:
        place = place_of(text) if text else None
    except ValueError as error:
        raise SettingsError(f"{name}: {error}") from None
    if place and place.kind == "cluster" and name == "RQ_REDIS_URL":
        raise SettingsError(f"{name}: the queue can't lie on a Cluster; name a plain Redis, or one behind Sentinel")
    return text or None


def database_url(read: Reader) -> str | None:
    """DATABASE_URL, or one made of DB_* where any of them is set."""
    if read.is_set("DATABASE_URL"):
        return read.text("DATABASE_URL")
    if not any(read.is_set(name) for name in ("DB_HOST", "DB_PORT", "DB_NAME", "DB_USER", "DB_PASSWORD")):
        return None
    user, password = (quote(read.text(name, "postgres"), safe="") for name in ("DB_USER", "DB_PASSWORD"))
    place = f"{read.text('DB_HOST', 'localhost')}:{read.integer('DB_PORT', 5432, least=1, most=65_535)}"
    tls = "?sslmode=verify-full&sslrootcert=system" if read.flag("DB_SSL", False) else ""
    return f"postgresql://{user}:{password}@{place}/{quote(read.text('DB_NAME', 'claude_proxy'), safe='')}{tls}"
