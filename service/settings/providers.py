"""Providers, and routes: a provider with a credential. Not here: where their values come from (`routes`)."""

from typing import Literal

from msgspec import Struct

from service.settings.failure_rules import Dialect
from service.settings.secret import Secret

Auth = Literal["api_key", "oauth", "client"]
CLIENT_ROUTE_ID = "anthropic:client"


class Provider(Struct, frozen=True, forbid_unknown_fields=True):
    """An upstream API.

    `families` are prefixes of the model names that it serves itself. A name of another family that `model_map` has
    (exact, or as a pattern) is always mapped. `model_fallback` maps names that the provider turns out to lack.
    """

    id: str
    title: str
    base_url: str
    dialect: Dialect = "compatible"
    families: tuple[str, ...] = ()
    model_map: dict[str, str] = {}
    model_fallback: dict[str, str] = {}


ANTHROPIC = Provider(
    id="anthropic",
    title="Anthropic",
    base_url="https://api.anthropic.com",
    dialect="anthropic",
    families=("claude",),
    # GLM names to Claude, in the order in which they are tried: the original's tables, where the models exist.
    model_map={"glm-*-air": "claude-haiku-4-5", "glm-*-turbo": "claude-haiku-4-5", "glm-*": "claude-opus-4-8"},
    # The original's aliases; and for models that an account may lack, the next ones that are not retired.
    model_fallback={
        "claude-opus": "claude-opus-4-8",
        "claude-sonnet": "claude-sonnet-4-6",
        "claude-haiku": "claude-haiku-4-5",
        "claude-opus-4-6": "claude-opus-4-8",
        "claude-sonnet-4-6": "claude-sonnet-5",
        "claude-haiku-4-5": "claude-haiku-4-5-20251001",
        "claude-haiku-4-6": "claude-haiku-4-5",
    },
)
ZAI = Provider(
    id="zai",
    title="Z.AI",
    base_url="https://api.z.ai/api/anthropic",
    dialect="zai",
    families=("glm",),
    model_map={"claude*haiku*": "glm-4.5-air", "claude*": "glm-5.2"},
    model_fallback={"glm-4": "glm-5.2"},
)


class Route(Struct, frozen=True):
    """A provider with a credential. `off` is why the route can't serve at all, None when it can.

    `auth` is the kind of credential: an API key, an OAuth token (from `credentials_path`, or `api_key` as the token),
    or the client's own as it came (a pseudo-route without shared state). `model_map` is the user's own and always
    applies. `weekly_tokens` and `concurrency` (attempts at once, across the fleet): 0 is no limit. `from_file`: the
    TOML file sets it, not variables.
    """

    id: str
    title: str
    provider: Provider
    base_url: str
    auth: Auth = "api_key"
    api_key: Secret = Secret("")
    credentials_path: str = ""
    weekly_tokens: int = 0
    concurrency: int = 0
    model_map: dict[str, str] = {}
    off: str | None = None
    from_file: bool = False
