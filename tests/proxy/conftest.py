"""A fake provider, and a server before it."""

from tests.support.proxy_fixtures import anthropic, server

__all__ = ["anthropic", "server"]
