"""Format of issued client keys: composition and parsing. Only their SHA-256 is in the ledger.

    ccp_ann-3f9a2c_5d0c...    prefix, id, 192 random bits in hexadecimal

A key contains its id, so that it is found at once and compared with one hash alone; the id is not secret, and names the
key wherever usage is shown. Not here: the random source, which callers bring.
"""

import re
from hashlib import sha256
from typing import NamedTuple

PREFIX = "ccp_"
SECRET_BYTES = 24
ID_CHARS = 48
NOT_IN_IDS = re.compile(r"[^a-z0-9]+")


class GeneratedKey(NamedTuple):
    """A new key, its id, and its hash in hexadecimal."""

    text: str
    key_id: str
    sha256: str


def make_key(name: str, random_bytes: bytes) -> GeneratedKey:
    """Make a key for a person; `chance` is at least 27 random bytes."""
    slug = NOT_IN_IDS.sub("-", name.lower()).strip("-")[:ID_CHARS] or "key"
    key_id = f"{slug}-{random_bytes[SECRET_BYTES : SECRET_BYTES + 3].hex()}"
    text = f"{PREFIX}{key_id}_{random_bytes[:SECRET_BYTES].hex()}"
    return GeneratedKey(text, key_id, sha256(text.encode()).hexdigest())


def is_issued(token: bytes) -> bool:
    """True if a token has the form of a key issued here; no provider's key does."""
    return token.startswith(PREFIX.encode())


def id_in(token: bytes) -> str:
    """Return the id in a key, "" if there is none."""
    return token.removeprefix(PREFIX.encode()).rpartition(b"_")[0].decode("latin-1")
