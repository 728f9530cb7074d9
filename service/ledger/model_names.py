"""Canonical model names, for every comparison: limits of keys, model maps, missing models, and prices. Pure. Providers
get the name as the client wrote it.

Clouds and gateways add a prefix (`anthropic/`, `us.anthropic.`, `publishers/anthropic/models/`), dates and variants are
suffixes (`-20260115`, `@20260115`, `@default`, `-v1:0`, `-latest`, `[1m]`), some write a version of Claude with a dot,
and case is ignored. Not here: validation of names (`service.edge.body_fields`).
"""

import re
from functools import lru_cache

GATEWAYS = "anthropic|azure_ai|bedrock|openrouter|vertex_ai|z-ai|zai|zai-org|zhipuai"
CLOUD_PATHS = (
    r"(?:projects/[^/]+/locations/[^/]+/)?publishers/(?:anthropic|zai-org)/models/",  # Google Cloud
    r"arn:aws[a-z-]*:bedrock:[^/]*/",  # Bedrock's models and inference profiles
)
PREFIX = re.compile(rf"(?:(?:{GATEWAYS})/)*(?:{'|'.join(CLOUD_PATHS)})?(?:(?:[a-z]{{2,6}}(?:-gov)?\.)?anthropic\.)?")
SUFFIX = re.compile(r"(?:-\d{8}|@(?:\d{8}|default|latest)|-v\d+(?::\d+)?|-latest|\[1m\])+$")
DOT = re.compile(r"(?<=\d)\.(?=\d)")
NAME_CHARS = 256
"""The longest name in the ledger. No model has a longer one, and a Postgres index row holds 2,700 bytes."""
MOST_NAMES = 512
"""Size of the cache; clients can invent names, but few are frequent."""


def bounded_name(name: str) -> str:
    """Return a name that is safe to store: bounded, and without NUL, which Postgres rejects in JSON."""
    return name[:NAME_CHARS].replace("\0", "")


@lru_cache(MOST_NAMES)
def canonical(model: str) -> str:
    """Return the name in lower case without prefix, date and variant; the whole name if nothing else is left.

    >>> canonical("us.anthropic.Claude-Opus-4-8-20260115-v1:0")
    'claude-opus-4-8'
    """
    name = model.lower()
    start = PREFIX.match(name)
    bare = SUFFIX.sub("", name[start.end() :] if start else name)
    return (DOT.sub("-", bare) if bare.startswith("claude") else bare) or name


@lru_cache(MOST_NAMES)
def is_of(model: str, families: tuple[str, ...]) -> bool:
    """True if a name begins with one of the families, such as `claude`."""
    return canonical(model).startswith(families)
