"""Who is calling: a key of this proxy, the client's own credential, or both.

A proxy key may come as `x-ccproxy-key`, which leaves the other headers to the client, or in place of the credential, as
`authorization: Bearer` or `x-api-key` (new SDKs send the former, older ones and Claude Code the latter, some both).
Not here: what a known client may do (`routing`).
"""

from collections.abc import Iterable, Sequence
from hashlib import sha256
from hmac import compare_digest

from msgspec import Struct

from service.errors import BadClientKey
from service.settings import StaticKey

KEY_HEADER = b"x-ccproxy-key"
CREDENTIAL_HEADERS = (b"authorization", b"x-api-key")


class Client(Struct, frozen=True):
    """A caller. `credential` is its own, "" when it showed none; `withhold` names headers that hold a proxy key."""

    key_id: str = ""
    credential: str = ""
    may_use_owners: bool = True
    withhold: tuple[bytes, ...] = ()


class Keyring:
    """The client keys of the settings, by hash."""

    def __init__(self, keys: Sequence[StaticKey], *, open_to_all: bool) -> None:
        self._keys = [(sha256(key.key.reveal().encode()).digest(), key.key_id) for key in keys]
        self._open_to_all = open_to_all and not keys

    def identify(self, headers: Iterable[tuple[bytes, bytes]]) -> Client:
        """The caller of a request. Raises BadClientKey when it showed nothing and must."""
        shown = [(name, value) for name, value in headers if name == KEY_HEADER or name in CREDENTIAL_HEADERS]
        tokens = [(name, token) for name, value in shown if (token := token_of(name, value))]
        found = {name: key_id for name, token in tokens if (key_id := self._key_id(token))}
        own = [token for wanted in CREDENTIAL_HEADERS for name, token in tokens if name == wanted and name not in found]
        credential = own[0].decode("latin-1") if own else ""
        if not found and not self._open_to_all and not credential:
            raise BadClientKey(
                "this proxy asks for a key: send it as x-api-key, Authorization: Bearer or x-ccproxy-key"
            )
        return Client(
            key_id=next(iter(found.values()), ""),
            credential=credential,
            may_use_owners=bool(found) or self._open_to_all,
            withhold=tuple(found),
        )

    def _key_id(self, token: bytes) -> str:
        digest = sha256(token).digest()
        matches = [key_id for known, key_id in self._keys if compare_digest(known, digest)]
        return matches[0] if matches else ""


def token_of(name: bytes, value: bytes) -> bytes:
    """The token in a header's value."""
    value = value.strip()
    if name == b"authorization":
        scheme, _, token = value.partition(b" ")
        return token.strip() if scheme.lower() == b"bearer" else value
    return value
