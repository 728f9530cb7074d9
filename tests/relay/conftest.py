"""Fakes of both vendors, and a server before them."""

from tests.support.proxy_fixtures import anthropic, server, zai

__all__ = ["anthropic", "server", "zai"]
