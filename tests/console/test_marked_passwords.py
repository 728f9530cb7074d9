"""A marked password in every form of address and in every setting that holds one, through every command: found nowhere.

The servers do not answer, so that errors name them; forms that are refused are among these. Not here: what a proxy
shows while it serves (`test_secrets`), and what passes through it (`tests.e2e.test_privacy`).
"""

import logging
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from urllib.parse import quote

import msgspec
import pytest
from click.testing import CliRunner

from service.cli import main
from service.console.redacted_settings import redacted_settings_view
from service.embedded.screen import Screen
from service.errors import SettingsError
from service.redis_client import probe
from service.settings import SECRETS, load
from service.telemetry.safe_console import SafeConsole
from tests.support.ports import free_port

ROOT = Path(__file__).parents[2]

MARK = "MARKED/pass word"
WRITTEN = quote(MARK, safe="")
"""As it is written in a URL."""
AT = "127.0.0.1:1"
REDIS = [
    f"redis://:{WRITTEN}@{AT}/0", f"redis://user:{WRITTEN}@{AT}", f"redis://:a@{WRITTEN}@{AT}",
    f"redis://{AT}/0?password={WRITTEN}", f"redis://{AT}?username=u&password={WRITTEN}&client_name=x",
    f"rediss://user:{WRITTEN}@{AT}/0?ssl_password={WRITTEN}",
    f"unix://user:{WRITTEN}@/nonexistent/redis.sock", f"unix:///nonexistent/redis.sock?password={WRITTEN}",
    f"redis+sentinel://user:{WRITTEN}@{AT},127.0.0.1:2/main/0?sentinel_password={WRITTEN}",
    f"redis+cluster://user:{WRITTEN}@{AT},127.0.0.1:2",
    f"redis://user:{MARK}@{AT}", f"redis://{AT}/{MARK}", f"redis://{AT}?pasword={WRITTEN}", f"redis:/{WRITTEN}@{AT}",
    f"redis://user:{WRITTEN}@{AT}:{WRITTEN}", f"{MARK}", f"http://user:{WRITTEN}@{AT}", f"redis://[::1:{WRITTEN}@",
]  # fmt: skip
POSTGRES = [
    f"postgresql://user:{WRITTEN}@{AT}/d", f"postgresql://user:a@{WRITTEN}@{AT}/d",
    f"postgresql://user:{WRITTEN}@{AT},127.0.0.1:2/d", f"postgresql://{AT}/d?user=u&password={WRITTEN}",
    f"postgresql://user@{AT}/d?password={WRITTEN}&sslpassword={WRITTEN}",
    f"postgresql://user:{WRITTEN}@%2Fnonexistent/d", f"postgresql:///d?host=/nonexistent&password={WRITTEN}",
    f"postgresql+asyncpg://user:{WRITTEN}@{AT}/d", f"jdbc:postgresql://{AT}/d?user=u&password={WRITTEN}",
    f"host=127.0.0.1 port=1 user=u password='{MARK}'", "host=127.0.0.1 port=1 password=MARKED\\ pass",
    f"host=/nonexistent user=u password='{MARK}' dbname=d",
    f"host=127.0.0.1,127.0.0.1 port=1,2 password='{MARK}' dbname=d",
    f"host=127.0.0.1 port=1 pasword='{MARK}'", f"host=127.0.0.1 password='{MARK}", f"password={MARK}",
    f"postgresql://user:{WRITTEN}@{AT}/d?colour={WRITTEN}", f"mysql://user:{WRITTEN}@{AT}/d",
    f"postgresql://user:{WRITTEN}@{AT}:{WRITTEN}/d", f"postgresql://user:{MARK}@{AT}/d", f"{MARK}",
]  # fmt: skip
PROXIES = [
    f"http://user:{WRITTEN}@{AT}", f"https://user:{WRITTEN}@{AT}", f"socks5://user:{WRITTEN}@{AT}",
    f"socks5h://user:{WRITTEN}@{AT}", f"socks4://user:{WRITTEN}@{AT}", f"ftp://user:{WRITTEN}@{AT}",
    f"user:{WRITTEN}@{AT}", f"http://user:{WRITTEN}@127.0.0.1:port", f"http://user:{WRITTEN}@", f"http://{MARK}@{AT}",
]  # fmt: skip
URLS = [
    f"https://user:{WRITTEN}@{AT}",
    f"https://{AT}?key={WRITTEN}",
    f"https://{AT}#{WRITTEN}",
    MARK,
    f"{WRITTEN}@x:y",
]
NAMED_URLS = (
    "ANTHROPIC_BASE_URL", "ZAI_BASE_URL", "CLAUDE_SUBSCRIPTION_BASE_URL", "CLAUDE_OAUTH_REFRESH_URL",
    "OTEL_EXPORTER_OTLP_ENDPOINT",
)  # fmt: skip
FORMS = [
    *(("REDIS_URL", form) for form in REDIS),
    *(("RQ_REDIS_URL", form) for form in REDIS[:10]),
    *(("DATABASE_URL", form) for form in POSTGRES),
    *(("DATABASE_DIRECT_URL", form) for form in POSTGRES[:12]),
    *((name, form) for name in ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY") for form in PROXIES),
    *((name, form) for name in NAMED_URLS for form in URLS),
    *((name, form) for name in ("ANTHROPIC_API_KEY", "ZAI_API_KEY") for form in (f"Bearer {MARK}", f"sk\n{MARK}")),
    ("ANTHROPIC_APIKEY", MARK),
    ("REDIS_URL", f"'redis://:{WRITTEN}@{AT}'"),
    ("REDIS_URL", f'"redis://:{WRITTEN}@{AT}'),
    ("DATABASE_URL", f'"postgresql://u:{WRITTEN}@{AT}/d"'),
    ("DB_PASSWORD", MARK),
    ("DB_HOST", f"user:{WRITTEN}@127.0.0.1"),
]
COMMANDS = {
    "REDIS": (("check", "--json"), ("status",), ("keys", "list"), ("events",), ("explain",)),
    "DATABASE": (("check", "--json"), ("usage",), ("migrate",)),
    "OTHERS": (("check", "--json"), ("check",)),
}
"""By what a variable's name has; `check` is the one that asks them all."""
USUAL = {
    "ANTHROPIC_API_KEY": "sk-ant-api03-usual-0123456789", "ANTHROPIC_BASE_URL": f"http://{AT}",
    "REDIS_URL": f"redis://{AT}", "DATABASE_URL": f"postgresql://u@{AT}/d", "API_CONNECT_TIMEOUT_MS": "100",
}  # fmt: skip
FAR = {
    "ANTHROPIC_BASE_URL": "http://192.0.2.1:9",
    "ZAI_BASE_URL": "https://192.0.2.1",
    "ZAI_API_KEY": "usual-0123456789",
}
"""Providers that would be reached by a proxy; nobody has this address."""
PARTS = {"DATABASE_URL": "", "DB_PORT": "1", "DB_HOST": "127.0.0.1"}


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing is waited for, and the machine's own variables are none."""
    monkeypatch.setattr(probe, "TIMEOUT_S", 0.5)
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)


def marks_in(text: str) -> str:
    """What surrounds a mark, whole or as it is written in a URL; "" if there is none."""
    places = [place for word in ("MARKED", "pass word", "pass%20word") if (place := text.find(word)) >= 0]
    at = min(places, default=-1)
    return "" if at < 0 else text[max(0, at - 200) : at + 100]


def shown_by_commands(environ: dict[str, str], *commands: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """All that commands print, and the exception with which one ends."""
    for command in commands:
        result = CliRunner().invoke(main, command, env=environ | {"NO_COLOR": "1"})
        failure = result.exception
        assert failure is None or isinstance(failure, SystemExit), (command, environ, repr(failure))
        yield " ".join(command), result.output + result.stderr


def doctors_file(environ: dict[str, str], folder: Path) -> str:
    """All that `doctor` packs."""
    file = folder / "doctor.zip"
    result = CliRunner().invoke(main, ("doctor", str(file)), env=environ)
    if not file.exists():
        return result.output
    with zipfile.ZipFile(file) as packed:
        return result.output + "\n".join(packed.read(name).decode() for name in packed.namelist())


def commands_for(name: str) -> tuple[tuple[str, ...], ...]:
    """The commands that read a variable."""
    return next((found for word, found in COMMANDS.items() if word in name), COMMANDS["OTHERS"])


def shown_of_settings(environ: dict[str, str], folder: Path, caplog: pytest.LogCaptureFixture) -> str:
    """All that is shown of settings without a server: the error, or the console's view and what `up` says."""
    try:
        settings = load(environ=environ)
    except SettingsError as error:
        return f"{error!r} {error}"
    views = [msgspec.json.encode(view).decode() for view in redacted_settings_view(settings)]
    screen, out = Screen(), StringIO()
    screen._out = SafeConsole(file=out)
    for server in (settings.redis_url, settings.database_url):
        if server:
            screen.show_external("server", server.shown)
    screen.banner(settings, folder)
    return "\n".join((repr(settings), *views, *settings.notices, out.getvalue(), caplog.text))


@pytest.mark.parametrize(("name", "form"), FORMS, ids=[f"{name}-{number}" for number, (name, _) in enumerate(FORMS)])
def test_no_form_of_an_address_shows_its_password(
    name: str, form: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither where it is read nor by a command that can't reach the server."""
    caplog.set_level(logging.DEBUG)
    around = FAR if name.endswith("_PROXY") else PARTS if name.startswith("DB_") else {}
    environ = USUAL | around | {"CCPROXY_HOME": str(tmp_path / "home"), name: form}
    of_settings = shown_of_settings(environ, tmp_path, caplog)
    assert marks_in(of_settings) == ""
    commands = (("status",),) if of_settings.startswith("SettingsError") else commands_for(name)
    for command, shown in shown_by_commands(environ, *commands):
        assert (command, marks_in(shown)) == (command, "")
    assert marks_in(caplog.text) == ""


def test_a_file_for_a_bug_report_has_none(tmp_path: Path) -> None:
    """Forms that load, all at once; their errors are in its check and its status."""
    forms = {"REDIS_URL": REDIS[3], "RQ_REDIS_URL": REDIS[8], "DATABASE_URL": POSTGRES[11], "HTTPS_PROXY": PROXIES[2],
             "DATABASE_DIRECT_URL": POSTGRES[4], "HTTP_PROXY": PROXIES[3], "DB_PASSWORD": MARK}  # fmt: skip
    secrets = {name: f"MARKED-{name}-0123456789-0123456789" for name in SECRETS if "URL" not in name}
    assert marks_in(doctors_file(USUAL | {"CCPROXY_HOME": str(tmp_path / "home")} | secrets | forms, tmp_path)) == ""


def test_an_env_file_shows_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In any of its forms, the broken ones included."""
    lines = [
        f"REDIS_URL={REDIS[0]}", f'export DATABASE_URL="{POSTGRES[9]}"', f"DATABASE_URL='{POSTGRES[0]}", MARK,
        f"ANTHROPIC_API_KEY = {MARK} # {MARK}", f"PROXY_API_KEYS=ann:{MARK}", f'ZAI_API_KEY="{MARK}\n{MARK}',
    ]  # fmt: skip
    for name in ("REDIS_URL", "DATABASE_URL"):
        monkeypatch.delenv(name, raising=False)
    for line in lines:
        (tmp_path / ".env").write_text(line + "\n", encoding="utf-8")
        for command, shown in shown_by_commands({"CCPROXY_HOME": str(tmp_path / "home")}, ("check",), ("status",)):
            assert (line, command, marks_in(shown)) == (line, command, "")


def test_up_shows_none(tmp_path: Path) -> None:
    """Neither on its screen nor in the logs of its programs, none of which reaches its server."""
    environ = USUAL | {"CCPROXY_HOME": str(tmp_path / "home"), "REDIS_URL": REDIS[1], "DATABASE_URL": POSTGRES[1],
                       "PROXY_PORT": str(free_port()), "LOG_LEVEL": "debug", "PATH": os.environ["PATH"]}  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-m", "service.cli", "up"], env=environ | {"PYTHONPATH": str(ROOT)}, cwd=tmp_path,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    try:
        said = [process.stdout.readline()] if process.stdout else []
        while process.stdout and "restarting" not in said[-1]:
            said.append(process.stdout.readline())
            assert said[-1], "".join(said)
    finally:
        process.terminate()
        rest, _ = process.communicate(timeout=60)
    logs = "".join(file.read_text(errors="replace") for file in (tmp_path / "home").rglob("*.log"))
    assert "127.0.0.1:1" in "".join(said)
    assert marks_in("".join(said) + rest + logs) == ""
