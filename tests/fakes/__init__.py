"""Fake providers on the loopback, scriptable per request: Anthropic, a Claude subscription, Z.AI.

    with FakeProvider("anthropic") as fake:
        fake.script(reply.error(529), reply.message("hello", usage=Usage(input=10, output=2)))

They are no simulation of a model, and know the providers' habits only as far as the proxy meets them.
"""

# Absolute imports throughout the folder, so that a test module that pytest imports under a shorter name meets the
# same classes.
from tests.fakes import reply
from tests.fakes.language import Received, Reply, Served, ServerToolUse, Text, Thinking, ToolUse, Usage
from tests.fakes.process import FakeProcess
from tests.fakes.provider import FakeProvider, closed_port

__all__ = [
    "FakeProcess",
    "FakeProvider",
    "Received",
    "Reply",
    "Served",
    "ServerToolUse",
    "Text",
    "Thinking",
    "ToolUse",
    "Usage",
    "closed_port",
    "reply",
]
