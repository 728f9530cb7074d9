"""Addresses are read in every form in which they are written, and nothing secret in them is ever repeated."""

import inspect
import traceback

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis import connection

from service.errors import SettingsError
from service.settings import load
from service.settings.database_url import database_address
from service.settings.redis_url import OPTIONS, TLS_OPTIONS, redis_address

MARK = "hunter2"


@pytest.mark.parametrize(
    ("text", "conninfo", "shown"),
    [
        ("postgresql://u:p@h:1/d", "postgresql://u:p@h:1/d", "h:1/d"),
        ("postgres://h/d", "postgres://h/d", "h:5432/d"),
        ("postgresql+asyncpg://u:p@h/d", "postgresql://u:p@h/d", "h:5432/d"),
        ("postgresql://u:p@[::1]:1/d", "postgresql://u:p@[::1]:1/d", "[::1]:1/d"),
        ("postgresql://u:p@a:1,b:2/d", "postgresql://u:p@a:1,b:2/d", "a:1,b:2/d"),
        ("postgresql:///d?host=/run/postgresql", "postgresql:///d?host=/run/postgresql", "/run/postgresql/d"),
        ("postgresql://u:p@%2Frun%2Fpostgresql/d", "postgresql://u:p@%2Frun%2Fpostgresql/d", "/run/postgresql/d"),
        ("postgresql://", "postgresql://", "the local socket"),
        ("postgresql://u:p@h?sslmode=require", "postgresql://u:p@h?sslmode=require", "h:5432"),
        ("postgresql://h?application_name=a/b", "postgresql://h?application_name=a/b", "h:5432"),
        # passwords as people paste them
        ("postgresql://u:s3@cret@h/d", "postgresql://u:s3%40cret@h/d", "h:5432/d"),
        ("postgresql://u:50%off@h/d", "postgresql://u:50%25off@h/d", "h:5432/d"),
        ("postgresql://u:s?#c@h/d", "postgresql://u:s?#c@h/d", "h:5432/d"),
        # parameters of other drivers
        ("postgresql://u:p@h/d?schema=public&connection_limit=5&pgbouncer=true", "postgresql://u:p@h/d", "h:5432/d"),
        ("postgresql://h/d?sslmode=no-verify", "postgresql://h/d?sslmode=require", "h:5432/d"),
        ("postgresql://h/d?ssl=false", "postgresql://h/d?sslmode=disable", "h:5432/d"),
        # keywords
        ("host=h user=u password=p dbname=d", "host=h user=u password=p dbname=d", "h:5432/d"),
        (r"host = h password = 'a b\'c'", r"host=h password='a b\'c'", "h:5432"),
        ("host=a,b port=1,2 dbname=d", "host=a,b port=1,2 dbname=d", "a:1,b:2/d"),
        ("host=/run/pg dbname=d schema=x", "host=/run/pg dbname=d", "/run/pg/d"),
        ("service=ledger", "service=ledger", "the local socket"),
    ],
)
def test_a_database_is_named_in_any_form(text: str, conninfo: str, shown: str) -> None:
    """What libpq gets, and what people see."""
    found = database_address(text).value
    assert (found.reveal(), found.shown) == (conninfo, shown)


@pytest.mark.parametrize(
    ("text", "notice"),
    [
        ("postgresql://h/d?schema=public", "schema was left out"),
        ("host=h schema=public", "schema was left out"),
        ("postgresql+psycopg://h/d", "the driver +psycopg was left out"),
        ("postgresql://h/d?sslmode=no-verify", "sslmode=require"),
        (f"postgresql://u:a@{MARK}@h/d", "were encoded"),
    ],
)
def test_what_is_changed_is_said(text: str, notice: str) -> None:
    """With the parameter's name, without its value."""
    [found] = database_address(text).notices
    assert notice in found
    assert MARK not in found


DATABASE_MISTAKES = [
    f"postgresql://u:s3/{MARK}@h/d", f"postgresql://u:1/{MARK}@h/d", f"postgresql://u:{MARK}", f"mysql://u:{MARK}@h/d",
    f"postgresql://h:{MARK}/d", f"postgresql://u:{MARK}@::1/d", f"{MARK}", f"password={MARK} and more",
    f"postgresql://u:p@h/d?{MARK}", f"http://{MARK}", f"password='{MARK}",
]  # fmt: skip
REDIS_MISTAKES = [
    f"redis://:{MARK}/x@h", f"redis://:{MARK}#@h", f"http://:{MARK}@h", f"redis://h:{MARK}", f"redis://h?{MARK}",
    f"redis://h?tls=true&password={MARK}", f"redis://h?nonsense={MARK}", f"redis://:{MARK}@h?ssl_ca_certs=/c",
]  # fmt: skip
URL_MISTAKES = [f"{MARK}", f"https://u:{MARK}@h", f"https://h?key={MARK}", f"ftp://{MARK}", f"https://h:{MARK}"]


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        *(("DATABASE_URL", text) for text in DATABASE_MISTAKES),
        *(("DATABASE_DIRECT_URL", text) for text in DATABASE_MISTAKES),
        *(("REDIS_URL", text) for text in REDIS_MISTAKES),
        *(("RQ_REDIS_URL", text) for text in REDIS_MISTAKES),
        *((name, text) for text in URL_MISTAKES for name in ("ANTHROPIC_BASE_URL", "ZAI_BASE_URL")),
        *(
            (name, text)
            for text in URL_MISTAKES
            for name in ("CLAUDE_OAUTH_REFRESH_URL", "OTEL_EXPORTER_OTLP_ENDPOINT")
        ),
    ],
)
def test_a_mistake_is_refused_by_its_name_and_repeats_nothing(variable: str, text: str) -> None:
    """The message has the variable; nothing of the address is in it, nor in the traceback."""
    with pytest.raises(SettingsError) as error:
        load(environ={variable: text})
    assert str(error.value).startswith(f"{variable}: ")
    assert MARK not in "".join(traceback.format_exception_only(error.value))


PASSWORDS = st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")), min_size=8, max_size=30)


@given(PASSWORDS)
def test_no_password_is_shown(password: str) -> None:
    """Whatever it consists of, raw in a URL: it is understood, or refused, and in neither case repeated."""
    mark = f"{MARK}{password}"
    for text, read in (
        (f"postgresql://user:{mark}@host.example/name", database_address),
        (f"redis://user:{mark}@host.example/0", redis_address),
    ):
        try:
            said = repr(read(text))
        except ValueError as error:
            said = str(error)
        assert MARK not in said


@pytest.mark.parametrize(
    ("variable", "text", "name", "expected"),
    [
        ("ANTHROPIC_BASE_URL", "https://h/v1", "routes.anthropic.base_url", "https://h"),
        ("ANTHROPIC_BASE_URL", "https://h/v1/", "routes.anthropic.base_url", "https://h"),
        ("CLAUDE_SUBSCRIPTION_BASE_URL", "https://h/v1/messages", "routes.subscription.base_url", "https://h"),
        ("ZAI_BASE_URL", "https://h/api/anthropic/v1", "routes.zai.base_url", "https://h/api/anthropic"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://h:4318/v1/traces", "otlp_endpoint", "http://h:4318"),
    ],
)
def test_a_path_that_is_added_anyway_is_left_out(variable: str, text: str, name: str, expected: str) -> None:
    """With a notice that names the variable."""
    settings = load(environ={variable: text})
    value = {f"routes.{route.id}.base_url": route.base_url for route in settings.routes} | {
        "otlp_endpoint": settings.otlp_endpoint
    }
    assert value[name] == expected
    assert any(notice.startswith(f"{variable}: /v1") for notice in settings.notices)


def test_a_path_that_only_looks_like_it_stays() -> None:
    """A gateway's own prefix is its own."""
    settings = load(environ={"ANTHROPIC_BASE_URL": "https://h/proxy-v1"})
    assert settings.routes[0].base_url == "https://h/proxy-v1"
    assert settings.notices == ()


@pytest.mark.parametrize(
    ("text", "kept", "notices"),
    [
        ("redis://h/0?family=6", "redis://h:6379/0", 1),
        ("redis://h?keyPrefix=x&db=2", "redis://h:6379?db=2", 1),
        ("redis://u:s3@cret@h", "redis://u:s3%40cret@h:6379", 0),
        ("rediss://h?ssl_cert_reqs=none", "rediss://h:6379?ssl_cert_reqs=none", 0),
    ],
)
def test_options_of_other_redis_clients_are_left_out(text: str, kept: str, notices: int) -> None:
    """redis-py would refuse them when it connects, in the background."""
    found = redis_address(text)
    assert found.value.place.plain_url == kept
    assert len(found.notices) == notices


def test_every_redis_option_is_known_to_the_library() -> None:
    """What is accepted must not fail later."""
    kinds = (connection.AbstractConnection, connection.Connection, connection.SSLConnection)
    known = set(connection.URL_QUERY_ARGUMENT_PARSERS)
    for kind in kinds:
        known |= set(inspect.signature(kind.__init__).parameters)
    assert {name for name in OPTIONS | TLS_OPTIONS if not name.startswith("sentinel_")} <= known


@pytest.mark.parametrize(("text", "host"), [("[::1]", "::1"), ("LOCALHOST", "localhost"), ("0.0.0.0", "0.0.0.0")])  # noqa: S104
def test_the_own_address_is_a_host_alone(text: str, host: str) -> None:
    """Brackets of IPv6 are taken off."""
    assert load(environ={"PROXY_HOST": text, "PROXY_API_KEYS": "k" * 20}).host == host


@pytest.mark.parametrize("text", ["http://0.0.0.0", "127.0.0.1:4181", "a b"])
def test_the_own_address_has_no_scheme_or_port(text: str) -> None:
    """It is refused with what to write instead."""
    with pytest.raises(SettingsError, match=r"PROXY_HOST: .*without scheme and port"):
        load(environ={"PROXY_HOST": text})
