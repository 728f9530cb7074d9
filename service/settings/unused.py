"""Variables that are set and have no effect, as notices: a mistake in them would stay unseen. Not here: wrong values,
which are errors (`reader`)."""

from collections.abc import Collection, Iterator, Mapping

from service.settings.files import File
from service.settings.routes import ROUTE_SETTINGS
from service.settings.variables import ENVIRONMENT_ONLY, OBSOLETE_PREFIXES, VARIABLES, declared

FOR_CLIENTS = "ANTHROPIC_BASE_URL"
"""It sets the route `anthropic` and, whatever routes there are, where clients' own credentials go."""
OF_ROUTES = tuple(setting.variable for struct in ROUTE_SETTINGS for _, setting in declared(struct))
KNOWN = frozenset(variable.name for variable in VARIABLES)
OUTSIDE_ONLY = frozenset(
    (*(one.name for one in VARIABLES if ENVIRONMENT_ONLY in one.meaning), "HTTP_PROXY", "NO_PROXY", "SSL_CERT_DIR")
)
"""Variables that libraries and the network read, so that `.env` and the file can't set them."""


def unused_variables(
    variables: Collection[str], file: File, origin: str, dotenv: Mapping[str, str], environ: Mapping[str, str]
) -> Iterator[str]:
    """Yield what has no effect of all `variables` that are set, of the file's `[env]`, and of `.env`."""
    if file.routes:
        yield from unused_beside_routes(variables, file, origin)
    for place, names in ((f"env of {origin}", file.env), (".env", dotenv)):
        for name in names:
            if name.upper() in OUTSIDE_ONLY and name not in environ:
                yield f"{name} in {place} has no effect: it is {ENVIRONMENT_ONLY}"
    known = KNOWN | {route.api_key_env for route in file.routes}
    for name in file.env:
        if name.removesuffix("_FILE") not in known and not is_said_elsewhere(name):
            yield f"{name} in env of {origin} has no effect: no setting has this name"


def is_said_elsewhere(name: str) -> bool:
    """True for variables that another notice names."""
    return name.upper() in OUTSIDE_ONLY or name.startswith(OBSOLETE_PREFIXES)


def unused_beside_routes(variables: Collection[str], file: File, origin: str) -> Iterator[str]:
    """Yield the variables of the usual routes, which the file's routes replace."""
    used = {route.api_key_env for route in file.routes} | {FOR_CLIENTS}
    for name in OF_ROUTES:
        if name in variables and name not in used:
            yield f"{name} has no effect: [[routes]] in {origin} replaces the route that it sets"
