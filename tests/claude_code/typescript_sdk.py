"""Anthropic's SDK for TypeScript as a test's client: one streamed message, as its helper makes it."""

from __future__ import annotations

import shutil
import subprocess
from typing import Any

import msgspec

from tests.support.npm import installed

VERSION = "1.12.0"
PACKAGE = "@anthropic-ai/sdk"
PROGRAM = """
const { Anthropic } = require(process.argv[1]);
const client = new Anthropic({ baseURL: process.argv[2], apiKey: "k" });
const body = { model: "claude-opus-5-5", max_tokens: 64, messages: [{ role: "user", content: "hi" }] };
const told = (value) => console.log(JSON.stringify(value));
client.messages.stream(body).finalMessage().then(
  (message) => told({ text: message.content.map((block) => block.text).join("") }),
  (error) => told({ status: error.status ?? null, type: error.type ?? null, message: error.message }),
);
"""


def ask_typescript_sdk(base_url: str, *, timeout_s: float = 60.0) -> dict[str, Any]:
    """The text of a streamed answer; or status, type and message of the error that the SDK raises."""
    node = shutil.which("node")
    if node is None:
        raise RuntimeError("node is not on the PATH; install Node.js to run these tests")
    package = installed("typescript-sdk", PACKAGE, VERSION) / PACKAGE
    command = [node, "-e", PROGRAM, str(package), base_url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=True)
    found: dict[str, Any] = msgspec.json.decode(done.stdout)
    return found
