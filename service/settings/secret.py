"""Secrets and client keys: values that are never shown. Not here: which settings are secrets (their declarations)."""

from collections.abc import Callable

from msgspec import Struct

from service.settings.values import listed

TOKEN_CHARS = 16
SHARE_KEY_CHARS = 32
"""Too long to be guessed: what is encrypted with it is stored where others may read it."""
LEDGER_KEYS = "ledger"
"""The word in PROXY_API_KEYS for the keys that `ccproxy keys` issues."""


class Secret:
    """A text that is not shown in a repr, a log line or a traceback."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """The text itself, for the one place that needs it."""
        return self._text

    def __repr__(self) -> str:
        return "Secret(***)"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._text == self._text

    def __hash__(self) -> int:
        return hash(self._text)

    def __bool__(self) -> bool:
        return bool(self._text)


class Address(Secret):
    """The address of a server as its library takes it. `shown` is it without user, password and options."""

    __slots__ = ("shown",)

    def __init__(self, text: str, shown: str) -> None:
        super().__init__(text)
        self.shown = shown

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.shown})"


class StaticKey(Struct, frozen=True):
    """A client key from the environment; one without a name is called by its place in the list."""

    key_id: str
    key: Secret
    has_name: bool = True


def secret_of_at_least(chars: int, command: str) -> Callable[[str], Secret]:
    """A parser of secrets; a shorter one is refused with the command that generates one."""

    def parse(text: str) -> Secret:
        if len(text) < chars:
            raise ValueError(f"shorter than {chars} characters; generate one with `{command}`")
        return Secret(text)

    return parse


def provider_key(text: str) -> Secret:
    """A provider's key, which is sent as a header. Raises ValueError, which repeats nothing of it."""
    if text.lower().startswith("bearer "):
        raise ValueError("has the word Bearer before the key; leave it out")
    if not all("!" <= sign <= "~" for sign in text):
        raise ValueError("has a space, a line break or another sign that no key has; copy the key again")
    return Secret(text)


operator_token = secret_of_at_least(TOKEN_CHARS, "openssl rand -hex 24")
sharing_secret = secret_of_at_least(SHARE_KEY_CHARS, "openssl rand -hex 32")


def static_keys(text: str) -> tuple[StaticKey, ...]:
    """Client keys from `name:key,key`."""
    entries = [part for part in listed(text) if part != LEDGER_KEYS]
    return tuple(static_key(number, entry) for number, entry in enumerate(entries, start=1))


def static_key(number: int, entry: str) -> StaticKey:
    """A client key from `name:key` or `key`; `number` is its place in the list."""
    name, colon, key = (piece.strip() for piece in entry.partition(":"))
    if not colon:
        name, key = "", entry
    if len(key) < TOKEN_CHARS:
        raise ValueError(
            f"key {number} is shorter than {TOKEN_CHARS} characters; generate one with `openssl rand -hex 24`"
        )
    return StaticKey(name or f"key-{number}", Secret(key), has_name=bool(name))
