"""What is set and has no effect is named at start, by `check` and wherever notices are shown."""

from pathlib import Path

import pytest

from service.settings import load

ROUTE = '[[routes]]\nid = "work"\nprovider = "anthropic"\napi_key_env = "ZAI_API_KEY"\n'
"""A route of its own, whose key lies in a variable of another's."""


def notices_of(tmp_path: Path, content: str, variables: dict[str, str]) -> tuple[str, ...]:
    """The notices of a file and some variables."""
    config = tmp_path / "ccproxy.toml"
    config.write_text(content, encoding="utf-8")
    return load(config, {"CCPROXY_HOME": str(tmp_path), **variables}).notices


def test_variables_of_routes_that_the_file_replaces_are_named(tmp_path: Path) -> None:
    """Each, whether it is set, lies in a file or stands in `[env]`; not those that are used all the same."""
    (tmp_path / "token").write_text("a-token", encoding="utf-8")
    variables = {
        "ANTHROPIC_API_KEY": "k", "ANTHROPIC_BASE_URL": "https://a.example", "ZAI_API_KEY": "used", "ZAI_BASE_URL": "",
        "CLAUDE_CODE_OAUTH_TOKEN_FILE": str(tmp_path / "token"), "API_TIMEOUT_MS": "5k",
    }  # fmt: skip
    found = notices_of(tmp_path, ROUTE + "[env]\nZAI_WEEKLY_LIMIT = 5\n", variables)
    assert [notice.split(" ", 1)[0] for notice in found] == [
        "ANTHROPIC_API_KEY", "CLAUDE_CODE_OAUTH_TOKEN", "ZAI_WEEKLY_LIMIT",
    ]  # fmt: skip
    assert all(notice.endswith("replaces the route that it sets") for notice in found)
    assert notices_of(tmp_path, "", variables) == ()


def test_names_that_no_setting_has_are_named(tmp_path: Path) -> None:
    """In the file's `[env]`, whose variables are for the proxy alone; the environment is everybody's."""
    content = ROUTE + '[env]\nPROXY_PRT = 80\nPROXY_PORT = 81\nNODE_ENV = "x"\nHTTPS_PROXY = "http://p:1"\n'
    found = notices_of(tmp_path, content, {"OTHER_PORT": "x"})
    assert sorted(notice.split(":")[-1].strip() for notice in found if "NODE_ENV" not in notice) == [
        "it is read from the environment only", "no setting has this name",
    ]  # fmt: skip
    assert sum("NODE_ENV" in notice for notice in found) == 1


def test_a_dotenv_does_not_set_what_the_environment_alone_can(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy in `.env` would be believed in, and not be used."""
    (tmp_path / ".env").write_text("HTTPS_PROXY=http://p:1\nno_proxy=x\nSSL_CERT_FILE=/a\nOTHER=1\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CCPROXY_HOME", str(tmp_path))
    for name in ("HTTPS_PROXY", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SSL_CERT_FILE", "/b")
    found = [notice for notice in load().notices if "in .env" in notice]
    assert [notice.split(" ", 1)[0] for notice in found] == ["HTTPS_PROXY", "no_proxy"]


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("ANTHROPIC_APIKEY", "ANTHROPIC_API_KEY"),
        ("PROXY_PROT", "PROXY_PORT"),
        ("anthropic_api_key", "ANTHROPIC_API_KEY"),
        ("REDIS_URI", "REDIS_URL"),
        ("ZAI_API_KEYS_FILE", "ZAI_API_KEY"),
    ],
)
@pytest.mark.parametrize("place", ["environment", "file"])
def test_a_slip_in_a_name_is_named_with_the_name_that_was_meant(
    name: str, meant: str, place: str, tmp_path: Path
) -> None:
    """Wherever it is; the proxy would start without the key, and say nothing."""
    content = f'[env]\n{name} = "x"\n' if place == "file" else ""
    found = notices_of(tmp_path, content, {} if content else {name: "x"})
    assert [notice.split(" ", 1)[0] for notice in found] == [name]
    assert found[0].endswith(f"has no effect: no setting has this name; did you mean {meant}?")


def test_variables_of_other_programs_are_no_slips(tmp_path: Path) -> None:
    """Nor is what begins as one of ours, where that is set as well."""
    others = (
        "ANTHROPIC_AUTH_TOKEN", "ANTHROPIC_MODEL", "CLAUDE_CODE_USE_BEDROCK", "CLAUDE_CONFIG_DIR", "DB_BACKUP_NAME",
        "LOG_FILES", "HTTPS_PROXY", "XPROXY_PORT", "POSTGRES_PASSWORD", "API_TOKEN", "REDIS_URL_2",
    )  # fmt: skip
    variables = dict.fromkeys(others, "1") | {"REDIS_URL": "redis://h"}
    assert notices_of(tmp_path, "", variables) == ()


def test_a_variable_that_another_one_overrules_is_named(tmp_path: Path) -> None:
    """Both are set, and one is used: that of a secret before its file, the address before its parts."""
    (tmp_path / "key").write_text("from-a-file", encoding="utf-8")
    variables = {
        "ANTHROPIC_API_KEY": "k", "ANTHROPIC_API_KEY_FILE": str(tmp_path / "key"),
        "ZAI_API_KEY_FILE": str(tmp_path / "key"), "ZAI_API_KEY": "",
        "DATABASE_URL": "postgresql://h/d", "DB_HOST": "other", "DB_PASSWORD": "p",
    }  # fmt: skip
    assert sorted(notices_of(tmp_path, "", variables)) == [
        "ANTHROPIC_API_KEY_FILE has no effect: ANTHROPIC_API_KEY is set",
        "DATABASE_URL is set, so that these have no effect: DB_HOST, DB_PASSWORD",
    ]


def test_a_line_of_a_dotenv_that_sets_nothing_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """By its number, since it may hold a secret; the library's own word about it is not there beside ours."""
    text = '\n# a comment\n\nZAI_API_KEY hunter2\nZAI_WEEKLY_LIMIT=5\nADMIN_TOKEN\nPROXY_API_KEYS="hunter2\n'
    (tmp_path / ".env").write_text(text, encoding="utf-8-sig")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CCPROXY_HOME", str(tmp_path))
    settings = load()
    found = [notice for notice in settings.notices if ".env" in notice]
    assert [notice.split(" of ")[0] for notice in found] == ["line 4", "line 6", "line 7"]
    assert "hunter2" not in str(settings.notices) + caplog.text
    assert "dotenv" not in caplog.text
    assert {route.id: route.weekly_tokens for route in settings.routes}["zai"] == 5
