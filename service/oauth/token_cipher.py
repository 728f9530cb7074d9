"""Encrypts what hosts share through Redis (AES-256-GCM). Not here: keys of Redis, and what is shared (`shared_token`).

Imported only where a token is shared: `cryptography` takes 9 MB of each process.
"""

import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from service.settings import Secret

NONCE_BYTES = 12
PURPOSE = b"ccproxy oauth access token v1"


class TokenCipher:
    """Encrypts and decrypts with a key derived from a setting; `place` binds what is encrypted to its Redis key."""

    def __init__(self, share_key: Secret) -> None:
        self._cipher = AESGCM(HKDF(SHA256(), 32, salt=None, info=PURPOSE).derive(share_key.reveal().encode()))

    def encrypt(self, raw: bytes, place: str) -> bytes:
        """Return a new nonce and the encrypted bytes behind it."""
        nonce = os.urandom(NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, raw, place.encode())

    def decrypt(self, sealed: bytes, place: str) -> bytes | None:
        """Return the bytes; None if this key does not decrypt them, or they are not of this place."""
        try:
            return self._cipher.decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], place.encode())
        except (InvalidTag, ValueError):
            return None
