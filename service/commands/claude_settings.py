"""Claude Code's settings pointed at the proxy, and brought back.

Claude Code reads `settings.json` in `~/.claude` (or CLAUDE_CONFIG_DIR), and a project's `.claude/settings.local.json`;
their `env` is set for its sessions, and stands above the shell's variables. All else in the file stays as it is. What
the file was before the first set-up is kept beside it, byte by byte, until it is brought back; no later set-up touches
that copy. An empty copy says that there was no file. Not here: starting Claude Code, and words on the screen (`cli`).
"""

import copy
import json
import os
import re
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, NamedTuple

BASE_URL, AUTH_TOKEN, HEADERS = "ANTHROPIC_BASE_URL", "ANTHROPIC_AUTH_TOKEN", "ANTHROPIC_CUSTOM_HEADERS"
KEY_HEADER = "x-ccproxy-key"
PLACEHOLDER = "ccproxy"
"""A token for a proxy that asks for none: without any, Claude Code would ask for a login."""
API_KEY, API_URL = "ANTHROPIC_API_KEY", "ANTHROPIC_API_URL"
"""The original proxy's set-up wrote these two as well."""
PLACEHOLDERS = {AUTH_TOKEN: PLACEHOLDER, API_KEY: "cc-proxy"}
"""No credentials; where they are not needed they go, because they would hide a login."""
MANAGED = (BASE_URL, AUTH_TOKEN, HEADERS, API_KEY, API_URL)
SECRET = {AUTH_TOKEN, HEADERS, API_KEY}
OWN_CREDENTIALS = (AUTH_TOKEN, API_KEY, "CLAUDE_CODE_OAUTH_TOKEN")
PRISTINE_SUFFIX = ".before-ccproxy"

Settings = dict[str, Any]


class ClaudeError(Exception):
    """Claude Code's settings can't be read or written. The message says where, why, and that nothing was changed."""


class ClaudeHome(NamedTuple):
    """Where Claude Code keeps its things: its folder, and the file of its own state."""

    folder: Path
    state: Path


class SettingsChange(NamedTuple):
    """A variable of the file's `env`: what it is after, None when it is taken out. A secret is shown as `(set)`."""

    name: str
    value: str | None

    @property
    def words(self) -> str:
        """The change as a line for the terminal."""
        if self.value is None:
            return f"- {self.name}"
        return f"+ {self.name}={'(set)' if self.name in SECRET else self.value}"


class Found(NamedTuple):
    """A file's bytes, None when there is none, and its settings."""

    raw: bytes | None
    settings: Settings


def claude_home(environ: Mapping[str, str]) -> ClaudeHome:
    """Claude Code's folder and state file, as its own variable moves them."""
    moved = environ.get("CLAUDE_CONFIG_DIR")
    folder = Path(moved).expanduser() if moved else Path.home() / ".claude"
    return ClaudeHome(folder, (folder if moved else Path.home()) / ".claude.json")


def user_settings(home: ClaudeHome) -> Path:
    """The file of all projects."""
    return home.folder / "settings.json"


def project_settings(project: Path) -> Path:
    """The file of one project that is not for sharing: it may hold a key."""
    return project / ".claude" / "settings.local.json"


def read(path: Path) -> Found:
    """A file of settings. Raises ClaudeError."""
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return Found(None, {})
    except OSError as error:
        raise ClaudeError(f"{path} can't be read ({error.strerror}); nothing was changed") from error
    return Found(raw, parsed(raw, path))


def parsed(raw: bytes, path: Path) -> Settings:
    """The settings in a file's bytes; a file of nothing has none. Raises ClaudeError."""
    if not raw.strip():
        return {}
    try:
        settings = json.loads(raw.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ClaudeError(
            f"{path} is not valid JSON ({error}); nothing was changed. Correct it (comments and trailing commas are "
            "not allowed) and try again"
        ) from error
    if not isinstance(settings, dict) or not isinstance(settings.get("env", {}), dict):
        raise ClaudeError(f"{path} is not a settings file: it and its `env` must be objects; nothing was changed")
    return settings


def env_of(settings: Settings) -> dict[str, Any]:
    """The variables that a file sets."""
    return dict(settings.get("env", {}))


def has_login(home: ClaudeHome, settings: Settings, environ: Mapping[str, str]) -> bool:
    """Whether Claude Code has a credential of its own, so that it asks for none."""
    env = env_of(settings)
    told = (env.get(name, environ.get(name)) not in (None, "", PLACEHOLDERS.get(name)) for name in OWN_CREDENTIALS)
    kept = (
        keeps(home.folder / ".credentials.json", "claudeAiOauth"),
        keeps(home.state, "oauthAccount"),  # macOS has the credential itself in its keychain
        keeps(home.state, "primaryApiKey"),
    )
    return bool(settings.get("apiKeyHelper")) or any(told) or any(kept)


def keeps(path: Path, name: str) -> bool:
    """Whether a JSON file of Claude Code's own has something under this name."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(found, dict) and bool(found.get(name))


def variables(url: str, key: str | None, *, logged_in: bool, keep_login: bool = False) -> dict[str, str]:
    """What Claude Code needs to use the proxy: its address, and a token unless it has its own login and no key."""
    if key and keep_login:
        return {BASE_URL: url, HEADERS: f"{KEY_HEADER}: {key}"}
    if key or not logged_in:
        return {BASE_URL: url, AUTH_TOKEN: key or PLACEHOLDER}
    return {BASE_URL: url}


def pointed(settings: Settings, wanted: Mapping[str, str]) -> Settings:
    """The settings with these variables; what the original proxy's set-up left is taken out."""
    env = env_of(settings)
    for name, value in PLACEHOLDERS.items():
        if env.get(name) == value:
            del env[name]
    env.pop(API_URL, None)
    merged = dict(wanted)
    if HEADERS in merged and isinstance(env.get(HEADERS), str):
        others = [line for line in env[HEADERS].splitlines() if not line.lower().startswith(f"{KEY_HEADER}:")]
        merged[HEADERS] = "\n".join([*others, merged[HEADERS]])
    return settings | {"env": env | merged}


def restored(current: Settings, pristine: Settings) -> Settings:
    """The current settings with the variables that set-ups change as they were before."""
    back, before = copy.deepcopy(current), env_of(pristine)
    env = {name: value for name, value in env_of(current).items() if name not in MANAGED or name in before}
    env |= {name: before[name] for name in MANAGED if name in before}
    if env or "env" in pristine:
        back["env"] = env
    else:
        back.pop("env", None)
    return back


def changes(before: Settings, after: Settings) -> list[SettingsChange]:
    """The variables that differ."""
    old, new = env_of(before), env_of(after)
    return [SettingsChange(name, new.get(name)) for name in MANAGED if old.get(name) != new.get(name)]


def set_up(path: Path, wanted: Mapping[str, str], *, dry_run: bool = False) -> list[SettingsChange]:
    """Point a file of settings at the proxy; what was changed. Raises ClaudeError."""
    found = read(path)
    after = pointed(found.settings, wanted)
    made = changes(found.settings, after)
    if made and not dry_run:
        keep_original(path, found.raw)
        replace(path, found.raw, written(after, found.raw))
    return made


Restored = Literal["nothing", "pristine", "removed", "merged"]


def restore(path: Path, *, dry_run: bool = False) -> Restored:
    """Bring a file back to what it was before the first set-up. Raises ClaudeError.

    Where nothing but our variables has changed since, that is the same bytes, or no file. What else was changed since
    stays, and only our variables go back ("merged").
    """
    kept, found = original_of(path), read(path)
    try:
        raw = kept.read_bytes()
    except FileNotFoundError:
        return "nothing"
    except OSError as error:
        raise ClaudeError(f"{kept} can't be read ({error.strerror}); nothing was changed") from error
    before = parsed(raw, kept)
    back = before if found.raw is None else restored(found.settings, before)
    how: Restored = "merged" if back != before else "pristine" if raw else "removed"
    if not dry_run:
        replace(path, found.raw, {"merged": written(back, found.raw), "pristine": raw, "removed": None}[how])
        kept.unlink()
    return how


def original_of(path: Path) -> Path:
    """Where the file as it was is kept."""
    return path.with_name(path.name + PRISTINE_SUFFIX)


def keep_original(path: Path, raw: bytes | None) -> None:
    """Keep what the file is, unless an earlier set-up has. Raises ClaudeError."""
    kept = original_of(path)
    if not kept.exists():
        replace(kept, None, raw or b"")


def written(settings: Settings, like: bytes | None) -> bytes:
    """The settings as JSON, indented as the file was."""
    text = (like or b"").decode("utf-8-sig")
    indent = re.search(r"^([ \t]+)\S", text, re.MULTILINE)
    end = "" if text and not text.endswith("\n") else "\n"
    return (json.dumps(settings, indent=indent.group(1) if indent else 2, ensure_ascii=False) + end).encode()


def replace(path: Path, expected: bytes | None, content: bytes | None) -> None:
    """Put content at `path` in one step, or remove the file, unless somebody changed it meanwhile. Raises ClaudeError.

    A link stays a link: what it points at is replaced. A file keeps its mode; a new one is for its owner alone.
    """
    place = path.resolve()
    try:
        place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        mode = place.stat().st_mode & 0o777 if expected is not None else 0o600
        descriptor, draft = tempfile.mkstemp(dir=place.parent, prefix=f".{place.name}.")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content or b"")
                file.flush()
                os.fsync(file.fileno())
            Path(draft).chmod(mode)
            if (place.read_bytes() if place.exists() else None) != expected:
                raise ClaudeError(
                    f"{path} was changed by another program at the same time; nothing was written. Try again"
                )
            if content is None:
                place.unlink(missing_ok=True)
            else:
                Path(draft).replace(place)
        finally:
            with suppress(FileNotFoundError):
                Path(draft).unlink()
    except OSError as error:
        raise ClaudeError(f"{path} can't be written ({error.strerror}); nothing was changed") from error
