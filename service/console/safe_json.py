"""JSON for operators, who read it with curl on a terminal: what a terminal would obey is an ASCII escape
(`telemetry.safe_text`).

Not here: the Messages API, whose answers are the providers' bytes.
"""

from typing import Any

from litestar.response import Response
from litestar.serialization import default_serializer
from litestar.types import Serializer

from service.telemetry.safe_text import visible_json


class SafeJson(Response[Any]):
    """The response class of all handlers that return data."""

    def render(self, content: Any, media_type: str, enc_hook: Serializer = default_serializer) -> bytes:
        """The body; JSON with escapes, anything else as it is."""
        body = super().render(content, media_type, enc_hook)
        return visible_json(body.decode()).encode() if media_type == "application/json" else body
