"""Edits Claude Code's settings to use the proxy, and restores them.

Claude Code reads `settings.json` in `~/.claude` (or CLAUDE_CONFIG_DIR), and a project's `.claude/settings.local.json`;
their `env` applies to its sessions, and overrides the shell's variables. Everything else in the file is kept. The file
as it was before the first set-up is saved beside it, byte for byte, until it is restored; later set-ups do not touch
that copy. An empty copy means that there was no file. Not here: starting Claude Code, and output (`claude`).
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

from service.errors import SettingsError

BASE_URL, AUTH_TOKEN, HEADERS = "ANTHROPIC_BASE_URL", "ANTHROPIC_AUTH_TOKEN", "ANTHROPIC_CUSTOM_HEADERS"
KEY_HEADER = "x-ccproxy-key"
PLACEHOLDER = "ccproxy"
"""A token for a proxy without client keys: without any token, Claude Code would ask for a login."""
API_KEY, API_URL = "ANTHROPIC_API_KEY", "ANTHROPIC_API_URL"
"""The original proxy's set-up wrote these two as well."""
PLACEHOLDERS = {AUTH_TOKEN: PLACEHOLDER, API_KEY: "cc-proxy"}
"""Placeholder values; removed where they are not needed, because they would hide a login."""
NO_PROXY = "NO_PROXY"
BACKENDS = {
    "CLAUDE_CODE_USE_BEDROCK": "Amazon Bedrock",
    "CLAUDE_CODE_USE_FOUNDRY": "Microsoft Foundry",
    "CLAUDE_CODE_USE_ANTHROPIC_AWS": "Claude Platform on AWS",
    "CLAUDE_CODE_USE_ANTHROPIC_GOOGLE_CLOUD": "Claude Platform on Google Cloud",
    "CLAUDE_CODE_USE_MANTLE": "Amazon Bedrock (Mantle)",
    "CLAUDE_CODE_USE_VERTEX": "Google Vertex AI",
    "CLAUDE_CODE_USE_GATEWAY": "a Claude Code gateway",
}
"""Switches that rank above the base URL, and where Claude Code then sends its requests."""
FEATURES = {
    "tool-search": ("ENABLE_TOOL_SEARCH", "load definitions of MCP tools only when they are needed"),
    "fine-grained-streaming": (
        "CLAUDE_CODE_ENABLE_FINE_GRAINED_TOOL_STREAMING", "stream long tool inputs, such as new files, as they are made"
    ),
    "model-discovery": ("CLAUDE_CODE_ENABLE_GATEWAY_MODEL_DISCOVERY", "list the proxy's models in `/model`"),
    "cache-1h": ("ENABLE_PROMPT_CACHING_1H", "keep prompts cached for 1 h, not 5 min; writing to it costs more"),
    "hints": ("CLAUDE_CODE_GATEWAY_HINT_HEADERS", "tell the proxy which agent a request is from"),
    "no-fallback": (
        "CLAUDE_CODE_DISABLE_NONSTREAMING_FALLBACK", "don't repeat a broken stream whole: a tool could run twice"
    ),
}  # fmt: skip
"""What Claude Code turns off behind a base URL, by the name of the option: its variable, and what it does."""
FEATURE_VARIABLES = tuple(variable for variable, _ in FEATURES.values())
MANAGED = (BASE_URL, AUTH_TOKEN, HEADERS, API_KEY, API_URL, NO_PROXY, *BACKENDS, *FEATURE_VARIABLES)
SECRET = {AUTH_TOKEN, HEADERS, API_KEY}
OWN_CREDENTIALS = (AUTH_TOKEN, API_KEY, "CLAUDE_CODE_OAUTH_TOKEN")
PRISTINE_SUFFIX = ".before-ccproxy"

Settings = dict[str, Any]


class ClaudeError(Exception):
    """Claude Code's settings can't be read or written. The message says where, why, and that nothing was changed."""


class ClaudeHome(NamedTuple):
    """Claude Code's folder, and its state file."""

    folder: Path
    state: Path


class SettingsChange(NamedTuple):
    """A change of a variable in the file's `env`: its new value, None if it is removed. A secret is shown as
    `(set)`."""

    name: str
    value: str | None

    @property
    def words(self) -> str:
        """Return the change as a line for the terminal."""
        if self.value is None:
            return f"- {self.name}"
        return f"+ {self.name}={'(set)' if self.name in SECRET else self.value}"


class SettingsFile(NamedTuple):
    """A file's bytes, None if there is no file, and its settings."""

    raw: bytes | None
    settings: Settings


def claude_home(environ: Mapping[str, str]) -> ClaudeHome:
    """Return Claude Code's folder and state file, as set by its own variable. Raises SettingsError."""
    moved = environ.get("CLAUDE_CONFIG_DIR")
    try:
        folder = Path(moved or "~").expanduser()
    except RuntimeError:
        raise SettingsError("this user has no home folder; set CLAUDE_CONFIG_DIR to a folder, or HOME") from None
    return ClaudeHome(folder if moved else folder / ".claude", folder / ".claude.json")


def user_settings(home: ClaudeHome) -> Path:
    """Return the path of the user's settings."""
    return home.folder / "settings.json"


def project_settings(project: Path) -> Path:
    """Return the path of a project's unshared settings, which may hold a key."""
    return project / ".claude" / "settings.local.json"


def read(path: Path) -> SettingsFile:
    """Read a settings file. Raises ClaudeError."""
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return SettingsFile(None, {})
    except OSError as error:
        raise ClaudeError(f"{path} can't be read ({error.strerror}); nothing was changed") from error
    return SettingsFile(raw, parsed(raw, path))


def parsed(raw: bytes, path: Path) -> Settings:
    """Parse a settings file; an empty one has no settings. Raises ClaudeError."""
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
    """Return the variables that a file sets."""
    return dict(settings.get("env", {}))


def has_login(home: ClaudeHome, settings: Settings, environ: Mapping[str, str]) -> bool:
    """True if Claude Code has its own credential, so that it does not ask for one."""
    env = env_of(settings)
    given = (env.get(name, environ.get(name)) not in (None, "", PLACEHOLDERS.get(name)) for name in OWN_CREDENTIALS)
    kept = (
        has_value(home.folder / ".credentials.json", "claudeAiOauth"),
        has_value(home.state, "oauthAccount"),  # macOS has the credential itself in its keychain
        has_value(home.state, "primaryApiKey"),
    )
    return bool(settings.get("apiKeyHelper")) or any(given) or any(kept)


def has_value(path: Path, name: str) -> bool:
    """True if a JSON file of Claude Code has a value under this name."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(found, dict) and bool(found.get(name))


def variables(url: str, key: str | None, *, logged_in: bool, keep_login: bool = False) -> dict[str, str]:
    """Return the variables for Claude Code: the proxy's address, and a token unless it has its own login and no key is
    given."""
    if key and keep_login:
        return {BASE_URL: url, HEADERS: f"{KEY_HEADER}: {key}"}
    if key or not logged_in:
        return {BASE_URL: url, AUTH_TOKEN: key or PLACEHOLDER}
    return {BASE_URL: url}


def with_variables(settings: Settings, wanted: Mapping[str, str]) -> Settings:
    """Return the settings with these variables, without those of the original proxy's set-up."""
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
    """Return the current settings with the variables of set-ups restored."""
    back, before = copy.deepcopy(current), env_of(pristine)
    env = {name: value for name, value in env_of(current).items() if name not in MANAGED or name in before}
    env |= {name: before[name] for name in MANAGED if name in before}
    if env or "env" in pristine:
        back["env"] = env
    else:
        back.pop("env", None)
    return back


def changes(before: Settings, after: Settings) -> list[SettingsChange]:
    """Return the variables that differ."""
    old, new = env_of(before), env_of(after)
    return [SettingsChange(name, new.get(name)) for name in MANAGED if old.get(name) != new.get(name)]


def set_up(path: Path, wanted: Mapping[str, str], *, dry_run: bool = False) -> list[SettingsChange]:
    """Configure a settings file for the proxy and return the changes. Raises ClaudeError."""
    found = read(path)
    after = with_variables(found.settings, wanted)
    made = changes(found.settings, after)
    if made and not dry_run:
        keep_original(path, found.raw)
        replace(path, found.raw, written(after, found.raw))
    return made


Restored = Literal["nothing", "pristine", "removed", "merged"]


def restore(path: Path, *, dry_run: bool = False) -> Restored:
    """Restore a file to its state before the first set-up. Raises ClaudeError.

    If only our variables have changed since, the result is the same bytes, or no file. Other changes are kept, and only
    our variables are restored ("merged").
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
    """Return the path of the saved original."""
    return path.with_name(path.name + PRISTINE_SUFFIX)


def keep_original(path: Path, raw: bytes | None) -> None:
    """Save the original, unless an earlier set-up has. Raises ClaudeError."""
    kept = original_of(path)
    if not kept.exists():
        replace(kept, None, raw or b"")


def written(settings: Settings, like: bytes | None) -> bytes:
    """Encode settings as JSON, indented like the file was."""
    text = (like or b"").decode("utf-8-sig")
    indent = re.search(r"^([ \t]+)\S", text, re.MULTILINE)
    end = "" if text and not text.endswith("\n") else "\n"
    return (json.dumps(settings, indent=indent.group(1) if indent else 2, ensure_ascii=False) + end).encode()


def replace(path: Path, expected: bytes | None, content: bytes | None) -> None:
    """Replace or remove a file atomically, unless it was changed meanwhile. Raises ClaudeError.

    A symbolic link stays: its target is replaced. A file keeps its mode; a new one is readable by its owner alone.
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
