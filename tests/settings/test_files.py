"""`.env` and the TOML file: what variables can't say, and where a mistake lies."""

from pathlib import Path

import pytest

from service.errors import SettingsError
from service.ledger.events import TokenCounts
from service.ledger.price import cost_nusd
from service.routing.context import limits_of
from service.settings import ANTHROPIC, ZAI, ModelLimits, Secret, Settings, load, read_dotenv
from service.settings.failure_rules import FailureRule, WindowRule, packaged_rules

ROUTES = """
[providers.corp]
base_url = "https://llm.corp.example/"
families = ["Claude"]

[providers.zai]
base_url = "https://open.bigmodel.cn/api/anthropic"

[[routes]]
id = "one"
provider = "anthropic"
api_key_env = "KEY_ONE"
weekly_tokens = 500
model_map = { "claude-opus" = "claude-opus-4-8" }

[[routes]]
id = "two"
provider = "anthropic"
api_key = "sk-ant-two"
base_url = "https://eu.example"
title = "Second"

[[routes]]
id = "corp"
provider = "corp"
api_key_env = "KEY_CORP"

[[routes]]
id = "sub"
provider = "anthropic"
auth = "oauth"
credentials_path = "/creds.json"

[[routes]]
id = "zai"
provider = "zai"
api_key_env = "KEY_ZAI"
"""


def read(tmp_path: Path, content: str, **variables: str) -> Settings:
    """The settings of a TOML file with this content."""
    path = tmp_path / "settings.toml"
    path.write_text(content, encoding="utf-8")
    return load(path, {"CCPROXY_HOME": str(tmp_path)} | variables)


# -- the TOML file


def test_the_file_says_what_variables_cannot(tmp_path: Path) -> None:
    """Several routes of one provider, in its order, in place of the usual three; own providers; own model maps."""
    one, two, corp, sub, zai = read(tmp_path, ROUTES, KEY_ONE="sk-ant-one", KEY_CORP="c", KEY_ZAI="z").routes
    assert (one.id, one.api_key, one.weekly_tokens, one.title) == ("one", Secret("sk-ant-one"), 500, "one")
    assert one.model_map == {"claude-opus": "claude-opus-4-8"}
    assert (two.base_url, two.title, two.provider) == ("https://eu.example", "Second", ANTHROPIC)
    assert (corp.base_url, corp.provider.dialect, corp.provider.families) == (
        "https://llm.corp.example",
        "compatible",
        ("claude",),
    )
    assert (sub.auth, sub.credentials_path) == ("oauth", "/creds.json")
    assert (zai.base_url, zai.provider.model_map) == ("https://open.bigmodel.cn/api/anthropic", ZAI.model_map)
    assert [route.off for route in (one, two, corp, sub, zai)] == [None] * 5


def test_a_route_whose_key_is_not_set_is_off(tmp_path: Path) -> None:
    """And says which variable to set."""
    one, two, corp, *_ = read(tmp_path, ROUTES).routes
    assert (one.off, two.off, corp.off) == ("no key; set KEY_ONE", None, "no key; set KEY_CORP")


@pytest.mark.parametrize(
    ("entry", "off"),
    [
        ('auth = "oauth"', "no key; set credentials_path"),
        ('auth = "oauth"\ncredentials_path = "/c"', None),
        ('auth = "oauth"\napi_key = "sk-ant-oat"', None),
        ("", "no key; set api_key_env"),
        ('credentials_path = "/c"', "no key; set api_key_env"),
    ],
    ids=["oauth alone", "oauth with a file", "oauth with a token", "nothing", "a key's route with a file"],
)
def test_a_route_needs_the_credential_of_its_kind(tmp_path: Path, entry: str, off: str | None) -> None:
    """A key for an API key's route; a file or a token for a subscription's."""
    [route] = read(tmp_path, f'[[routes]]\nid = "x"\nprovider = "anthropic"\n{entry}').routes
    assert route.off == off


def test_the_file_can_stand_in_for_variables(tmp_path: Path) -> None:
    """Its `[env]` says what the environment leaves out; numbers and booleans may be written as such."""
    content = "[env]\nPROXY_PORT = 5000\nCIRCUIT_BREAKER_ENABLED = false\nLOG_LEVEL = 'debug'\n"
    content += "QUOTA_WARNING_THRESHOLD = 80.5"
    settings = read(tmp_path, content, LOG_LEVEL="warn")
    assert (settings.port, settings.policy.circuit.enabled, settings.log_level) == (5000, False, "warn")
    assert settings.policy.warning_percent == 80.5


def test_prices_of_the_file_stand_over_the_packaged(tmp_path: Path) -> None:
    """The others stay; the list is another version then, so that events tell which one they were priced by."""
    packaged = load(environ={"CCPROXY_HOME": str(tmp_path)}).prices
    own = "input = 1\noutput = 2.5\ncache_read = 0\ncache_write_5m = 0\ncache_write_1h = 0"
    prices = read(tmp_path, f'[prices."my-model"]\n{own}').prices
    assert prices.models.keys() - packaged.models.keys() == {"my-model"}
    assert {name: prices.models[name] for name in packaged.models} == packaged.models
    assert cost_nusd(TokenCounts(input=2, output=2), "my-model", prices) == 7_000
    assert prices.version not in ("", packaged.version)
    assert read(tmp_path, "").prices == packaged


def test_what_the_file_says_of_a_model_stands_before_the_packaged(tmp_path: Path) -> None:
    """It counts first, by name or pattern; what it leaves out is still known."""
    policy = read(tmp_path, '[models."glm-4.5-*"]\ncontext_tokens = 1000\n[models.house]\nreads_images = false').policy
    assert limits_of("glm-4.5-air", policy) == ModelLimits(1_000, 98_304, reads_images=False)
    assert limits_of("house", policy) == ModelLimits(reads_images=False)
    assert limits_of("glm-4.6", policy) == limits_of("glm-4.6", read(tmp_path, "").policy)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[models.x]\ncontext_tokens = 0", "context_tokens"),
        ("[models.x]\nwindow = 1", "window"),
        ("colour = 1", "colour"),
        ('[[routes]]\nid = "x"\nprovider = "anthropic"\ncolour = 1', "colour"),
        ('[providers.x]\nbase_url = "https://x.example"\ncolour = 1', "colour"),
        ('[[routes]]\nid = "x"', "provider"),
        ('[[routes]]\nid = "x"\nprovider = "nobody"', "known: anthropic, zai"),
        ('[[routes]]\nid = "x"\nprovider = "anthropic"\n[[routes]]\nid = "x"\nprovider = "zai"', "unique"),
        ('[[routes]]\nid = "control"\nprovider = "anthropic"', "control"),
        ('[[routes]]\nid = "a:b"\nprovider = "anthropic"', "a-z"),
        ('[[routes]]\nid = ""\nprovider = "anthropic"', "a-z"),
        ('[[routes]]\nid = "x"\nprovider = "anthropic"\nweekly_tokens = -1', "weekly_tokens"),
        ('[[routes]]\nid = "x"\nprovider = "anthropic"\nbase_url = "x.example"', "base_url"),
        ('[[routes]]\nid = "x"\nprovider = "anthropic"\nauth = "magic"', "auth"),
        ('[providers.x]\ntitle = "X"', "base_url is missing"),
        ('[providers.x]\nbase_url = "nowhere"', "providers.x.base_url"),
        ('[providers.x]\nbase_url = "https://x.example"\ndialect = "klingon"', "dialect"),
        ("[env]\nPROXY_PORT = [1]", "env"),
        ("this is no TOML", "line 1"),
    ],
)
def test_a_mistake_names_the_file_and_the_place(tmp_path: Path, content: str, words: str) -> None:
    """Unknown keys are mistakes here, for nobody but us writes into this file."""
    with pytest.raises(SettingsError) as error:
        read(tmp_path, content)
    assert error.value.message.startswith(str(tmp_path / "settings.toml"))
    assert words in error.value.message


def test_a_mistake_in_the_files_variables_names_the_variable(tmp_path: Path) -> None:
    """As it does in the environment."""
    with pytest.raises(SettingsError, match="PROXY_PORT"):
        read(tmp_path, "[env]\nPROXY_PORT = 0")


def test_a_loop_by_way_of_a_client_is_refused_too(tmp_path: Path) -> None:
    """Routes of a file do not use ANTHROPIC_BASE_URL; clients' own credentials do."""
    with pytest.raises(SettingsError, match="env -u ANTHROPIC_BASE_URL"):
        read(tmp_path, ROUTES, ANTHROPIC_BASE_URL="http://127.0.0.1:4181")


def test_the_file_is_found(tmp_path: Path) -> None:
    """By its name in the home, by CCPROXY_CONFIG, or as it is given; the latter stand over the former."""
    (tmp_path / "ccproxy.toml").write_text("[env]\nPROXY_PORT = 1001")
    (tmp_path / "other.toml").write_text("[env]\nPROXY_PORT = 1002")
    (tmp_path / "given.toml").write_text("[env]\nPROXY_PORT = 1003")
    environ = {"CCPROXY_HOME": str(tmp_path)}
    assert load(environ=environ).port == 1001
    environ["CCPROXY_CONFIG"] = str(tmp_path / "other.toml")
    assert load(environ=environ).port == 1002
    assert load(tmp_path / "given.toml", environ).port == 1003


def test_a_file_that_was_asked_for_must_be_there(tmp_path: Path) -> None:
    """One that was not need not."""
    environ = {"CCPROXY_HOME": str(tmp_path)}
    assert load(environ=environ).port == 4181
    with pytest.raises(SettingsError, match=r"none\.toml.*CCPROXY_CONFIG"):
        load(tmp_path / "none.toml", environ)
    with pytest.raises(SettingsError, match=r"none\.toml"):
        load(environ=environ | {"CCPROXY_CONFIG": str(tmp_path / "none.toml")})


def test_what_cannot_be_read_is_a_mistake(tmp_path: Path) -> None:
    """A folder in its place, or bytes that are no text."""
    with pytest.raises(SettingsError, match="can't be read"):
        load(tmp_path, {"CCPROXY_HOME": str(tmp_path)})
    (tmp_path / "ccproxy.toml").write_bytes(b"\xff")
    with pytest.raises(SettingsError, match=r"ccproxy\.toml"):
        load(environ={"CCPROXY_HOME": str(tmp_path)})


# -- .env


def test_dotenv_lines(tmp_path: Path) -> None:
    """As python-dotenv reads them; but `$NAME` stays as it is, since passwords have `$`."""
    (tmp_path / ".env").write_text(
        "# a comment\n\nPLAIN=1\n  SPACED = 2 \nexport EXPORTED=3\nQUOTED=\"a b\"\nSINGLE='c#d'\nEMPTY=\n"
        "EQUALS=a=b\nno line\n#OFF=1\nexport  TAB=5 # a comment\nHASH=a#b\nDOLLAR=${PLAIN}$x\n"
        "LINES=\"a\\nb\"\nQUOTE=\"a 'b'\" # 'c'\n",
        encoding="utf-8",
    )
    assert read_dotenv(tmp_path / ".env") == {
        "PLAIN": "1",
        "SPACED": "2",
        "EXPORTED": "3",
        "QUOTED": "a b",
        "SINGLE": "c#d",
        "EMPTY": "",
        "EQUALS": "a=b",
        "TAB": "5",
        "HASH": "a#b",
        "DOLLAR": "${PLAIN}$x",
        "LINES": "a\nb",
        "QUOTE": "a 'b'",
    }


def test_dotenv_never_overrides_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says what the environment leaves out, and stands over the TOML file."""
    (tmp_path / ".env").write_text("PROXY_PORT=1001\nLOG_LEVEL=debug\n")
    (tmp_path / "ccproxy.toml").write_text("[env]\nPROXY_PORT = 1003\nLOG_FORMAT = 'json'")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CCPROXY_HOME", str(tmp_path))
    monkeypatch.delenv("LOG_LEVEL", raising=False)
    monkeypatch.setenv("PROXY_PORT", "1002")
    settings = load()
    assert (settings.port, settings.log_level, settings.log_format) == (1002, "debug", "json")
    monkeypatch.delenv("PROXY_PORT")
    assert load().port == 1001


def test_a_given_environment_is_the_whole_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the process's environment nor `.env` is looked at."""
    (tmp_path / ".env").write_text("PROXY_PORT=1001\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PROXY_PORT", "1002")
    assert load(environ={"CCPROXY_HOME": str(tmp_path)}).port == 4181


def test_a_dotenv_that_is_no_text_is_a_mistake(tmp_path: Path) -> None:
    """Its name and the mend are told; one that is not there is empty."""
    (tmp_path / ".env").write_bytes(b"A=\xff")
    with pytest.raises(SettingsError, match=r"\.env: can't be read.*save it as UTF-8"):
        read_dotenv(tmp_path / ".env")
    assert read_dotenv(tmp_path / "none") == {}


# -- rules of one's own

OWN_RULE = """
[[failures]]
status = [418, "520-529"]
words = ["short and stout"]
kind = "throttle"
scope = "throttle"
"""


def test_rules_of_ones_own_stand_before_the_packaged_ones(tmp_path: Path) -> None:
    """A table of the file each; the packaged ones follow."""
    window = '[[windows]]\nname = "30d"\nclaims = ["thirty_day"]\n'
    rules = read(tmp_path, OWN_RULE + window).policy.rules
    packaged = packaged_rules()
    first = FailureRule("throttle", "throttle", status=(418, "520-529"), words=("short and stout",))
    assert rules.failures == (first, *packaged.failures)
    assert rules.windows == (WindowRule("30d", ("thirty_day",)), *packaged.windows)
    assert read(tmp_path, "").policy.rules == packaged


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (('kind = "throttle"', 'kind = "slow"'), "kind"),
        (('kind = "throttle"', 'kind = "deadline"'), "a response can't be of the kind 'deadline'"),
        (('kind = "throttle"', ""), "kind"),
        (('scope = "throttle"', 'scope = "me"'), "scope"),
        (('scope = "throttle"', 'scope = ""'), "the scope is missing"),
        (("418", "1000"), "status 1000 is not within"),
        (("520-529", "529-520"), "the lower first"),
        (("520-529", "5xx"), "neither a number nor a range"),
        (("words", "word"), "word"),
    ],
)
def test_a_wrong_rule_is_an_error_that_names_its_place(tmp_path: Path, change: tuple[str, str], words: str) -> None:
    """The file, the number of the table, and what is wrong with it."""
    with pytest.raises(SettingsError) as caught:
        read(tmp_path, OWN_RULE.replace(*change))
    assert "settings.toml" in str(caught.value)
    assert "$.failures[0]" in str(caught.value)
    assert words in str(caught.value)


@pytest.mark.parametrize("quote", ["'", '"'])
def test_quotes_around_a_value_are_left_out(quote: str, tmp_path: Path) -> None:
    """Docker's --env-file and some panels keep them. It is said once for each setting, and for no other variable."""
    quoted = {"PROXY_PORT": "5000", "ZAI_API_KEY": "key", "REDIS_URL": "redis://h", "PS1": "x", "ADMIN_TOKEN": ""}
    variables = {name: f"{quote}{value}{quote}" for name, value in quoted.items()}
    settings = load(environ={"CCPROXY_HOME": str(tmp_path), **variables, "VIEWER_TOKEN": f"{quote}-a-token-of-length"})
    assert settings.port == 5000
    assert settings.routes[2].api_key.reveal() == "key"
    assert settings.redis_url
    assert not settings.admin_token
    assert settings.viewer_token.reveal()[0] == quote
    assert sorted(settings.notices) == [
        f"{name}: the quotes around the value were left out" for name in ("PROXY_PORT", "REDIS_URL", "ZAI_API_KEY")
    ]


def test_a_file_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    """As editors of Windows write it."""
    (tmp_path / "ccproxy.toml").write_bytes(b"\xef\xbb\xbf[env]\r\nPROXY_PORT = 5000\r\n")
    assert load(environ={"CCPROXY_HOME": str(tmp_path)}).port == 5000
