"""Fingerprints with a key that all proxies with the same settings have, over restarts too.

The key follows from configured secrets, which nobody has who reads only Redis or Postgres. Without any (subscriptions
alone, no share key) it is a random one: the first proxy puts its own into Redis, and all others adopt that. Until Redis
was reached, each proxy has its own, so that its fingerprints agree with nobody's.

Not here: what a fingerprint is made of (`service.routing.error_words`).
"""

import os

from service.routing.error_words import Fingerprints
from service.settings import Settings

KEY_BYTES = 32


class FleetFingerprints:
    """The fingerprints of one process. `offer` is the random key that it would share; None if it needs none."""

    def __init__(self, settings: Settings) -> None:
        secret = configured_secret(settings)
        self.offer = None if secret else os.urandom(KEY_BYTES)
        self.current = Fingerprints(secret or self.offer or b"")

    def adopt(self, found: object) -> None:
        """Take the key that is in Redis in place of the own one; anything but a key is ignored."""
        if isinstance(found, bytes) and len(found) == KEY_BYTES and self.offer not in (None, found):
            self.offer, self.current = found, Fingerprints(found)


def configured_secret(settings: Settings) -> bytes:
    """All keys of the settings, which all replicas have; empty if there are none."""
    secrets = [f"{route.id}={route.api_key.reveal()}" for route in settings.routes if route.api_key]
    secrets += [f"share={settings.oauth.share_key.reveal()}"] if settings.oauth.share_key else []
    return "\n".join(sorted(secrets)).encode()
