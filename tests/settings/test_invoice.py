"""The admin key: read by `ccproxy reconcile` alone, from wherever settings come from, and shown nowhere."""

import os
from pathlib import Path

import pytest

from service.errors import SettingsError
from service.settings import FOR_WORKERS, load, load_for_invoice, load_for_workers, worker_environ
from service.settings.invoice import FOR_INVOICE

KEY = "sk-ant-admin01-0123456789abcdef"
ROUTES = """
[env]
ANTHROPIC_ADMIN_URL = "http://127.0.0.1:1/"

[[routes]]
id = "first"
provider = "anthropic"
api_key = "sk-ant-api03-x"

[[routes]]
id = "plan"
provider = "anthropic"
auth = "oauth"

[[routes]]
id = "glm"
provider = "zai"

[[routes]]
id = "second"
provider = "mirror"

[providers.mirror]
base_url = "https://mirror.example"
dialect = "anthropic"
"""


@pytest.fixture(autouse=True)
def _no_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty folder, and none of the machine's own variables."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CCPROXY_HOME", str(tmp_path))
    for name in (*FOR_INVOICE, "ANTHROPIC_ADMIN_KEY_FILE"):
        monkeypatch.delenv(name, raising=False)


def test_without_settings_there_is_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """The address is Anthropic's, whatever the proxy's route says; the usual route with a key is compared."""
    monkeypatch.setenv("ANTHROPIC_BASE_URL", "https://gateway.example")
    found = load_for_invoice()
    assert (bool(found.admin_key), found.admin_url, found.routes) == (
        False,
        "https://api.anthropic.com",
        ("anthropic",),
    )


def test_the_key_may_be_in_the_environment_in_dotenv_or_in_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As all secrets may."""
    (tmp_path / "key").write_text(f"{KEY}\n", encoding="utf-8")
    (tmp_path / ".env").write_text(f"ANTHROPIC_ADMIN_KEY={KEY}1\n", encoding="utf-8")
    assert load_for_invoice().admin_key.reveal() == KEY + "1"
    monkeypatch.setenv("ANTHROPIC_ADMIN_KEY", KEY + "2")
    assert load_for_invoice().admin_key.reveal() == KEY + "2"
    monkeypatch.delenv("ANTHROPIC_ADMIN_KEY")
    (tmp_path / ".env").unlink()
    monkeypatch.setenv("ANTHROPIC_ADMIN_KEY_FILE", str(tmp_path / "key"))
    assert load_for_invoice().admin_key.reveal() == KEY
    assert KEY not in repr(load_for_invoice())


def test_the_routes_are_those_with_a_key_of_anthropics(tmp_path: Path) -> None:
    """Neither subscriptions nor other providers; their own keys are not read."""
    (tmp_path / "ccproxy.toml").write_text(ROUTES, encoding="utf-8")
    found = load_for_invoice()
    assert (found.routes, found.admin_url) == (("first", "second"), "http://127.0.0.1:1")


def test_a_wrong_address_is_an_error_that_names_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_ADMIN_URL", "api.anthropic.com")
    with pytest.raises(SettingsError, match=r"ANTHROPIC_ADMIN_URL: not an http or https URL"):
        load_for_invoice()


def test_nobody_else_reads_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the proxy nor a worker, not even as a file that can't be read."""
    monkeypatch.setenv("ANTHROPIC_ADMIN_KEY_FILE", "/nonexistent")
    assert load() == load(environ={"CCPROXY_HOME": os.environ["CCPROXY_HOME"]})
    monkeypatch.setenv("ANTHROPIC_ADMIN_KEY", KEY)
    for settings in (load(), load_for_workers()):
        assert KEY not in repr(settings)
    assert FOR_INVOICE.isdisjoint(FOR_WORKERS)
    assert FOR_INVOICE.isdisjoint(worker_environ(os.environ))
