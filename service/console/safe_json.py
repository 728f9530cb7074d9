"""JSON responses that are safe on a terminal: control characters are ASCII escapes (`telemetry.safe_text`).

Not here: the Messages API, whose responses are the providers' bytes.
"""

from typing import Any

from litestar.response import Response
from litestar.serialization import default_serializer
from litestar.types import Serializer

from service.telemetry.safe_text import visible_json


class SafeJson(Response[Any]):
    """Response class of all handlers that return data."""

    def render(self, content: Any, media_type: str, enc_hook: Serializer = default_serializer) -> bytes:
        """Return the body: escaped JSON, anything else unchanged."""
        body = super().render(content, media_type, enc_hook)
        return visible_json(body.decode()).encode() if media_type == "application/json" else body
