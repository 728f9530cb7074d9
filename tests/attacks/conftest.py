"""What attacks are run on: proxies in this process (`server`), before fakes that behave, or none."""

from tests.support.proxy_fixtures import anthropic, server, zai

__all__ = ["anthropic", "server", "zai"]
