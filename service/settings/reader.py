"""Reads one variable at a time, each checked, with errors that name it and its mend."""

import re
from collections.abc import Mapping
from urllib.parse import urlsplit

from service.errors import SettingsError

DURATION = re.compile(r"(\d{1,9}(?:\.\d{1,3})?)\s*(ms|s|m|)")


class Reader:
    """Reads variables, each checked, with errors that name the variable. A set but empty variable is not set."""

    def __init__(self, variables: Mapping[str, str]) -> None:
        self.variables = {name: value for name, value in variables.items() if value.strip()}

    def text(self, name: str, default: str = "") -> str:
        """A text."""
        return self.variables.get(name, default).strip()

    def is_set(self, name: str) -> bool:
        """Whether the variable says anything."""
        return name in self.variables

    def integer(self, name: str, default: int, least: int = 0, most: int = 2**53) -> int:
        """A whole number within bounds."""
        text = self.variables.get(name)
        if text is None:
            return default
        try:
            number = int(text.strip().replace("_", ""))
        except ValueError:
            raise SettingsError(f"{name}: {text!r} is not a whole number") from None
        if not least <= number <= most:
            raise SettingsError(f"{name}: {number} is not between {least} and {most}")
        return number

    def number(self, name: str, default: float, least: float, most: float) -> float:
        """A number within bounds."""
        text = self.variables.get(name)
        if text is None:
            return default
        try:
            number = float(text)
        except ValueError:
            raise SettingsError(f"{name}: {text!r} is not a number") from None
        if not least <= number <= most:
            raise SettingsError(f"{name}: {text} is not between {least:g} and {most:g}")
        return number

    def duration_ms(self, name: str, default_ms: int) -> int:
        """A time of at most a day: `5`, `5s` and `0.5m` with their units, a bare number is seconds; `500ms`."""
        text = self.variables.get(name)
        if text is None:
            return default_ms
        found = DURATION.fullmatch(text.strip().lower())
        number_ms = float(found[1]) * {"ms": 1, "m": 60_000}.get(found[2], 1_000) if found else -1
        if not 0 <= number_ms <= 86_400_000:
            raise SettingsError(f"{name}: {text!r} is no time of up to a day, such as 5s or 500ms")
        return round(number_ms)

    def flag(self, name: str, default: bool) -> bool:  # noqa: FBT001 - the default of a yes-or-no setting
        """True or false."""
        text = self.text(name).lower()
        if not text:
            return default
        if text in ("true", "1", "yes", "on"):
            return True
        if text in ("false", "0", "no", "off"):
            return False
        raise SettingsError(f"{name}: {text!r} is neither true nor false")

    def choice(self, name: str, default: str, choices: tuple[str, ...]) -> str:
        """One of a few words."""
        text = self.text(name, default).lower()
        if text not in choices:
            raise SettingsError(f"{name}: {text!r} is none of {', '.join(choices)}")
        return text

    def url(self, name: str, default: str) -> str:
        """An http or https URL without a trailing slash."""
        return checked_url(name, self.text(name, default))


def checked_url(place: str, text: str) -> str:
    """An http or https URL without a trailing slash, query or credentials; raises SettingsError."""
    try:
        parts = urlsplit(text)
        parts.port  # noqa: B018 - reading it is what checks it
    except ValueError:
        raise SettingsError(f"{place}: not a URL; give one such as https://api.anthropic.com") from None
    if "@" in text or parts.query or parts.fragment:
        raise SettingsError(f"{place}: give the address alone, without credentials, query or fragment")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise SettingsError(f"{place}: {text!r} is not an http or https URL")
    return text.rstrip("/")


def redacted_url(url: str) -> str:
    """A URL without what may be secret in it: user, password and query."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname}:{port_of(url)}{parts.path}"


def port_of(url: str) -> int:
    """The port that a URL means."""
    parts = urlsplit(url)
    return parts.port or (443 if parts.scheme == "https" else 80)
