"""One normal form of a model's name, for whatever compares names: limits of keys, model maps, what is known of models,
and prices. Pure. What goes up to a provider is the name as the client wrote it.

Clouds and gateways put something before the name (`anthropic/`, `us.anthropic.`), dates and variants stand behind it
(`-20260115`, `@20260115`, `-v1:0`, `-latest`, `[1m]`), and capitals mean nothing.
Not here: whether a name may be one at all (`service.edge.body_fields`).
"""

import re
from functools import lru_cache

GATEWAYS = r"anthropic|bedrock|openrouter|vertex_ai|z-ai|zai|zai-org|zhipuai"
PREFIX = re.compile(rf"(?:(?:{GATEWAYS})/)*(?:(?:[a-z]{{2,6}}(?:-gov)?\.)?anthropic\.)?")
SUFFIX = re.compile(r"(?:-\d{8}|@\d{8}|-v\d+(?::\d+)?|-latest|\[1m\])+$")
NAME_CHARS = 256
"""The longest name in the ledger. No model has a longer one, and an index in Postgres takes 2,700 bytes a row."""
MOST_NAMES = 512
"""Of clients' making; few of them come often."""


def bounded_name(name: str) -> str:
    """A name as it may stand in the ledger: clients can invent any, and Postgres reads no JSON with a NUL."""
    return name[:NAME_CHARS].replace("\0", "")


@lru_cache(MOST_NAMES)
def canonical(model: str) -> str:
    """The name without capitals, prefix, date and variant; the whole name in small letters when nothing else is left.

    >>> canonical("us.anthropic.Claude-Opus-4-8-20260115-v1:0")
    'claude-opus-4-8'
    """
    name = model.lower()
    start = PREFIX.match(name)
    bare = SUFFIX.sub("", name[start.end() :] if start else name)
    return bare or name


@lru_cache(MOST_NAMES)
def is_of(model: str, families: tuple[str, ...]) -> bool:
    """Whether a name begins like those of a family, such as `claude`."""
    return canonical(model).startswith(families)
