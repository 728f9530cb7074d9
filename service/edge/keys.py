"""Client authentication: by a key of this proxy, the client's own credential, or both.

A proxy key may be in `x-ccproxy-key`, which leaves the other headers to the client, or replace the credential in
`authorization: Bearer` or `x-api-key` (new SDKs send the former, older ones and Claude Code the latter, some both). If
keys are required, a client's own credential does not replace one, and a wrong `x-ccproxy-key` is rejected whatever the
other headers contain. Keys are either in the settings, or in the ledger; the latter contain their own id
(`ledger.keys`). Reads headers alone, so that no body is buffered for unknown clients. Not here: limits of known clients
(`key_limits`).
"""

from collections.abc import Callable, Container, Iterable, Sequence
from hashlib import sha256
from hmac import compare_digest
from itertools import chain

from msgspec import Struct

from service.errors import BadClientKey, KeysUnknown
from service.ledger.keys import id_in, is_issued
from service.ledger.state import ClientKey, ControlLedger
from service.settings import StaticKey

KEY_HEADER = b"x-ccproxy-key"
CREDENTIAL_HEADERS = (b"authorization", b"x-api-key")
SHOWN = frozenset((KEY_HEADER, *CREDENTIAL_HEADERS))
OWNER_DIGITS = 32
NO_SUCH_KEY = ClientKey(name="", sha256="0" * 64)
"""Compared with unknown keys, so that they take as long as known ones."""
UNREAD_RETRY_S = 1


class CallerIdentity(Struct, frozen=True):
    """An authenticated client. `credential` is its own, "" if it sent none; `withhold` names headers that hold a proxy
    key.

    `key` has the limits of a key in the ledger; a key of the settings has none. `owner` identifies the resources that
    the client may use: the name of its key, which a replacement key shares; None if no keys are required. `shared`:
    there are other owners too.
    """

    key_id: str = ""
    credential: str = ""
    withhold: tuple[bytes, ...] = ()
    key: ClientKey | None = None
    owner: str | None = None
    shared: bool = False


class Keyring:
    """The client keys: of the settings, by hash, and of the ledger, through `control` (None: not read yet)."""

    def __init__(
        self,
        keys: Sequence[StaticKey],
        *,
        open_to_all: bool,
        ledger_keys: bool = False,
        control: Callable[[], ControlLedger | None] = lambda: None,
    ) -> None:
        self._keys = [(sha256(key.key.reveal().encode()).digest(), key.key_id) for key in keys]
        self._owners = {key.key_id: owner_of(key) for key in keys}
        self._open_to_all = open_to_all and not keys
        self._ledger_keys = ledger_keys
        self._control = control

    def identify(self, headers: Iterable[tuple[bytes, bytes]]) -> CallerIdentity:
        """Authenticate a request.

        Raises BadClientKey for a missing or invalid key, and KeysUnknown if the ledger's keys were not read yet.
        """
        tokens = tokens_of(headers)
        key_ids = {name: key_id for name, token in tokens if (key_id := self._key_id(token))}
        if not self._open_to_all:
            check_shown(tokens, key_ids)
        key_id = next(iter(key_ids.values()), "")
        key = self._ledger_key(key_id) if key_id else None
        credential = "" if len(key_ids) == len(tokens) else own_credential(tokens, key_ids)
        if self._open_to_all:
            return CallerIdentity(key_id, credential, tuple(key_ids), key)
        owner = key.name if key else self._owners.get(key_id, "")
        shared = not key_id or self._has_several_owners()
        return CallerIdentity(key_id, credential, tuple(key_ids), key, owner, shared)

    def _has_several_owners(self) -> bool:
        """True if keys have more than one owner, or if that is unknown yet."""
        control = self._control()
        if control is None and self._ledger_keys:
            return True
        issued = (key.name for key in control.keys.values()) if control else ()
        owners = chain(self._owners.values(), issued)
        first = next(owners, "")
        return any(owner != first for owner in owners)

    def _key_id(self, token: bytes) -> str:
        if is_issued(token):
            return self._issued_id(token)
        digest = sha256(token).digest()
        matches = [key_id for known, key_id in self._keys if compare_digest(known, digest)]
        return matches[0] if matches else ""

    def _issued_id(self, token: bytes) -> str:
        """Return the id of a key in the ledger. A token that looks like a key but is invalid is never used as a
        credential."""
        control = self._control()
        if control is None:
            raise KeysUnknown(
                "the proxy has not loaded its client keys yet; try again in a second", retry_after_s=UNREAD_RETRY_S
            )
        key_id = id_in(token)
        known = control.keys.get(key_id, NO_SUCH_KEY)
        if not compare_digest(known.sha256, sha256(token).hexdigest()):
            raise BadClientKey("unknown client key: it was revoked or mistyped; ask the proxy's operator")
        return key_id

    def _ledger_key(self, key_id: str) -> ClientKey | None:
        control = self._control()
        return control.keys.get(key_id) if control else None


def owner_of(key: StaticKey) -> str:
    """Return the owner for a key of the settings. A nameless key is identified by its hash, since its position in the
    list changes; the colon can't occur in names."""
    return key.key_id if key.has_name else f"sha256:{sha256(key.key.reveal().encode()).hexdigest()[:OWNER_DIGITS]}"


def tokens_of(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Return the tokens of a request, by header. Raises BadClientKey if a header is repeated."""
    tokens = []
    for name, value in headers:
        if name in SHOWN and (token := token_of(name, value)):
            tokens.append((name, token))
    if len(tokens) > 1 and len(dict(tokens)) < len(tokens):
        raise BadClientKey("duplicate key or credential header; send each once")
    return tokens


def check_shown(tokens: Sequence[tuple[bytes, bytes]], keys: Container[bytes]) -> None:
    """Raise BadClientKey unless a header holds a proxy key, and `x-ccproxy-key` nothing else."""
    names = [name for name, _ in tokens]
    if KEY_HEADER in names and KEY_HEADER not in keys:
        raise BadClientKey("unknown client key in x-ccproxy-key: ask the proxy's operator for one")
    if not any(name in keys for name in names):
        raise BadClientKey(
            "this proxy requires a client key: send it as x-api-key or Authorization: Bearer, or as x-ccproxy-key in "
            "addition to your own credential; ask the proxy's operator for one"
        )


def own_credential(tokens: Sequence[tuple[bytes, bytes]], keys: Container[bytes]) -> str:
    """Return the client's own credential: the first token that is not a key of the proxy; "" if there is none."""
    own = (token for wanted in CREDENTIAL_HEADERS for name, token in tokens if name == wanted and name not in keys)
    return next(own, b"").decode("latin-1")


def token_of(name: bytes, value: bytes) -> bytes:
    """Return the token in a header's value."""
    value = value.strip()
    if name == b"authorization":
        scheme, _, token = value.partition(b" ")
        return token.strip() if scheme.lower() == b"bearer" else value
    return value
