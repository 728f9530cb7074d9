"""A fake provider, and a server before it."""

from tests.relay.fixtures import anthropic, server

__all__ = ["anthropic", "server"]
