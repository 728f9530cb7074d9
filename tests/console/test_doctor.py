"""`ccproxy doctor`: what is in its file, and that no secret is, wherever it was written down."""

import json
import stat
import zipfile
from pathlib import Path

import pytest
from click.testing import CliRunner

from service.cli import main
from service.embedded.valkey import Valkey
from tests.console.test_secrets import ADDRESSES, MARK, SECRETS
from tests.support.ports import free_port
from tests.support.subscriptions import log_in

FILES = ["README.txt", "about.json", "settings.json", "check.json", "status.json", "metrics.txt", "logs/proxy.json"]


def packed(home: Path, environ: dict[str, str]) -> dict[str, str]:
    """The texts of what the command packs."""
    file = home.parent / "doctor.zip"
    environ = {"CCPROXY_HOME": str(home), "NO_COLOR": "1", "PROXY_PORT": str(free_port()), **environ}
    result = CliRunner().invoke(main, ("doctor", str(file)), env=environ)
    assert result.exit_code == 0, result.output
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert MARK not in result.output
    with zipfile.ZipFile(file) as found:
        return {name: found.read(name).decode() for name in found.namelist()}


def test_all_that_a_report_needs_is_there(valkey: Valkey, tmp_path: Path) -> None:
    """Each of it readable; the README names it."""
    home = tmp_path / "home"
    (home / "logs").mkdir(parents=True)
    (home / "logs" / "worker.log").write_text("".join(f"line {number}\n" for number in range(500)))
    found = packed(home, {"REDIS_URL": valkey.url})
    assert list(found) == [*FILES, "logs/worker.txt"]
    assert found["logs/worker.txt"].splitlines() == [f"line {number}" for number in range(300, 500)]
    assert json.loads(found["about.json"])["packages"]["litestar"]
    assert json.loads(found["settings.json"])["home"] == str(home)
    assert {"home", "redis"} <= {each["what"] for each in json.loads(found["check.json"])}
    assert json.loads(found["status.json"])["replicas"] == []
    assert "no proxy answers here" in found["metrics.txt"]
    assert all(name.partition("/")[0] in found["README.txt"] for name in FILES[1:])


@pytest.mark.parametrize("variable", [None, *ADDRESSES])
def test_no_secret_is_packed(tmp_path: Path, variable: str | None) -> None:
    """Of any setting, in any form of an address, of the credentials file, and in logs that somebody else wrote."""
    forms = [text for text, _ in ADDRESSES[variable]] if variable else [SECRETS["DATABASE_URL"]]
    for number, form in enumerate(forms):
        home = tmp_path / str(number) / "home"
        (home / "logs").mkdir(parents=True)
        (home / "valkey").mkdir()
        (home / "valkey" / "password").write_text(f"{MARK}-of-valkey\n")
        (home / "admin-token").write_text(f"{MARK}-kept\n")
        login = log_in(home / "credentials.json", access=f"{MARK}-access", refresh=f"{MARK}-refresh")
        environ = {**SECRETS, "CLAUDE_CODE_OAUTH_TOKEN": "", "CLAUDE_SUBSCRIPTION_ENABLED": "true",
                   "CLAUDE_CREDENTIALS_PATH": str(login), variable or "DATABASE_URL": form}  # fmt: skip
        written = [*SECRETS.values(), form, f"{MARK}-of-valkey", f"{MARK}-access", f"{MARK}-refresh", MARK]
        (home / "logs" / "worker.log").write_text("".join(f"connecting with {text} failed\n" for text in written))
        found = packed(home, {name: value for name, value in environ.items() if value})
        for name, text in found.items():
            assert MARK not in text, (name, text[max(0, text.find(MARK) - 200) :][:300])
        assert "connecting with" in found["logs/worker.txt"]
