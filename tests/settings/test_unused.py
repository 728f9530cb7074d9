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
    found = notices_of(tmp_path, content, {"PROXY_HOTS": "x"})
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
