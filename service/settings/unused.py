"""Variables that are set and have no effect, as notices: a mistake in them would stay unseen. Not here: wrong values,
which are errors (`reader`)."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from difflib import get_close_matches

from service.settings.database import NAMING
from service.settings.files import File
from service.settings.routes import ROUTE_SETTINGS
from service.settings.variables import ENVIRONMENT_ONLY, OBSOLETE_PREFIXES, SECRETS, VARIABLES, declared

FOR_CLIENTS = "ANTHROPIC_BASE_URL"
"""It sets the route `anthropic` and, whatever routes there are, where clients' own credentials go."""
OF_ROUTES = tuple(setting.variable for struct in ROUTE_SETTINGS for _, setting in declared(struct))
KNOWN = frozenset(variable.name for variable in VARIABLES)
NEAR = 0.85
"""How alike a name and a setting's have to be (0 to 1) for one to be a slip of the other."""
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
    yield from unknown_names(f"{{}} in env of {origin}", file.env, variables, known)
    near = (name for name in {**dotenv, **environ} if name in variables and near_name(name, variables, known))
    yield from unknown_names("{}", near, variables, known)
    yield from overruled(variables, {**file.env, **dotenv, **environ})


def unknown_names(
    place: str, names: Iterable[str], variables: Collection[str], known: Collection[str]
) -> Iterator[str]:
    """Yield the names that no setting has, each with the one that was probably meant."""
    for name in names:
        if name.removesuffix("_FILE") not in known and not is_said_elsewhere(name):
            near = near_name(name, variables, known)
            meant = f"; did you mean {near}?" if near else ""
            yield f"{place.format(name)} has no effect: no setting has this name{meant}"


def near_name(name: str, variables: Collection[str], known: Collection[str]) -> str:
    """Return the setting whose name is nearly this one, unless it is set as well; "" if there is none.

    Variables of other programs are no mistake, so that a name has to begin as one of ours does.
    """
    written = name.upper().removesuffix("_FILE")
    if name in known or name.removesuffix("_FILE") in known:
        return ""
    candidates = [one for one in known if one[:3] == written[:3] and one not in variables]
    return next(iter(get_close_matches(written, candidates, n=1, cutoff=NEAR)), "")


def overruled(variables: Collection[str], given: Mapping[str, object]) -> Iterator[str]:
    """Yield variables that have no effect beside others, which say the same thing."""
    for name in SECRETS:
        if f"{name}_FILE" in variables and str(given.get(name, "")).strip():
            yield f"{name}_FILE has no effect: {name} is set"
    if "DATABASE_URL" in variables:
        parts = [name for name in NAMING if name in variables]
        if parts:
            yield f"DATABASE_URL is set, so that these have no effect: {', '.join(parts)}"


def is_said_elsewhere(name: str) -> bool:
    """True for variables that another notice names."""
    return name.upper() in OUTSIDE_ONLY or name.startswith(OBSOLETE_PREFIXES)


def unused_beside_routes(variables: Collection[str], file: File, origin: str) -> Iterator[str]:
    """Yield the variables of the usual routes, which the file's routes replace."""
    used = {route.api_key_env for route in file.routes} | {FOR_CLIENTS}
    for name in OF_ROUTES:
        if name in variables and name not in used:
            yield f"{name} has no effect: [[routes]] in {origin} replaces the route that it sets"
