"""Access to batches, files, containers and threads: only the owner of the key that made them may use them.

All keys of this proxy share the providers' accounts, so that a provider can't tell clients apart. A client that may not
use a resource gets the provider's error for one that does not exist, whether it exists or not.

- The owner is the name of a key. A key that replaces another one has the same name.
- A resource whose owner is unknown (created by other means, or by an earlier version) may be used if there is only one
  owner, and on the account of a client that brings its own credential.
- All methods are alike, and so are ids in paths, queries and bodies. Lists are reduced to the caller's own items.
- What a resource makes by itself belongs to its owner: the runs of a deployment, the sessions of these and of agents,
  the files of a session. It is known once a list has shown it.

Not here: where a resource lives (`fleet.resource_index`), and which ids a request names (`edge.request_parser`).
"""

import contextlib

import msgspec
from msgspec import Raw, Struct

from service.errors import HomeUnknown, NotFound, ThreadLost
from service.fleet.resource_index import IndexAway, ResourceHome, ResourceIndex
from service.relay.client import READS, ClientRequest

SHOWN_CHARS = 64
"""An id in an error's message; a real one is shorter."""


class Named(Struct):
    """A resource, by its id."""

    id: str = ""


class Listed(Struct):
    """The fields of a list's item that are read: its id, and what may have made it."""

    id: str = ""
    deployment_id: str | None = None
    scope: Named | None = None
    agent: Named | str | None = None

    @property
    def parents(self) -> tuple[str, ...]:
        """The ids of what may have made the item, the closest first."""
        scope = self.scope.id if self.scope else ""
        agent = self.agent.id if isinstance(self.agent, Named) else self.agent
        return tuple(filter(None, (self.deployment_id, scope, agent)))


_fields_decoder = msgspec.json.Decoder(dict[str, Raw])
_items_decoder = msgspec.json.Decoder(list[Raw])
_listed_decoder = msgspec.json.Decoder(Listed)
_named_decoder = msgspec.json.Decoder(Named)
UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


async def home_of(request: ClientRequest, resources: ResourceIndex, *, has_own_account: bool) -> str:
    """The route on which the request's resources live, "" when it names none that is known.

    Raises NotFound for one that the caller may not use, and HomeUnknown when that can't be told, or guessing might
    write elsewhere; where there is one owner only, what is read is looked for.
    """
    route = away = ""
    for resource_id in request.resource_ids:
        try:
            home = await resources.home_of(resource_id, needs_owner=request.shared)
        except IndexAway:
            away = away or resource_id
            continue
        check(resource_id, home, request, has_own_account=has_own_account)
        route = route or (home.route if home else "")
    if away and (request.shared or not (route or request.method in READS)):
        raise away_error(away, request)
    return route


def check(resource_id: str, home: ResourceHome | None, request: ClientRequest, *, has_own_account: bool) -> None:
    """Raise NotFound unless the caller may use a resource; one without an owner goes to its own account alone."""
    if request.owner is None:
        return
    owner = home.owner if home else ""
    if owner:
        if owner != request.owner:
            raise not_found(resource_id, request)
    elif request.shared:
        if not has_own_account:
            raise not_found(resource_id, request)
        request.chain = tuple(route for route in request.chain if route.auth == "client")


def not_found(resource_id: str, request: ClientRequest) -> NotFound | ThreadLost:
    """The error for a resource that does not exist or is not the caller's; without a thread the client can go on."""
    if resource_id == request.previous_message_id:
        return ThreadLost.where("there is no such thread")
    return NotFound(f"Not found: {resource_id[:SHOWN_CHARS]}")


def away_error(resource_id: str, request: ClientRequest) -> HomeUnknown | ThreadLost:
    """The error for a resource whose home can't be told now; without a thread the client can go on."""
    if resource_id == request.previous_message_id:
        return ThreadLost.where("the route of this thread is unknown now")
    return index_away(resource_id)


def index_away(resource_id: str) -> HomeUnknown:
    """Nobody can tell now where a resource lives, or whose it is."""
    return HomeUnknown(
        f"the route of {resource_id[:SHOWN_CHARS]} is unknown while Redis is unavailable; try again later"
    )


async def note_found(request: ClientRequest, home: ResourceHome, resources: ResourceIndex) -> None:
    """Note where a resource was found that nobody knew, so that what is written to it goes there as well."""
    if request.method == "GET":
        await resources.bind(request.resource_ids[0], home)


def is_list(request: ClientRequest) -> bool:
    """Return true if a response may list resources of all who share an account, whatever else the body names."""
    return (
        request.shared
        and request.method == "GET"
        and not request.names_in_path
        and request.endpoint in ("files", "batches", "other")
    )


async def own_items(body: bytes, request: ClientRequest, resources: ResourceIndex) -> bytes:
    """A list with the caller's own items alone; its cursors stay, so that the next page can be asked for.

    Raises HomeUnknown when nobody can tell whose they are.
    """
    try:
        fields = _fields_decoder.decode(body)
        items = _items_decoder.decode(fields["data"])
    except (*UNREADABLE, KeyError):
        return body
    own = [item for item in items if await is_own(read_item(item), request, resources)]
    return msgspec.json.encode(fields | {"data": own})


async def is_own(item: Listed, request: ClientRequest, resources: ResourceIndex) -> bool:
    """Return true if an item is known to be the caller's, or was made by what is. Raises HomeUnknown."""
    home = await listed_home(item.id, resources) if item.id else None
    if home is not None or not item.id:
        return home is not None and home.owner == request.owner
    for parent in item.parents:
        home = await listed_home(parent, resources)
        if home is not None:
            await resources.bind(item.id, home)
            return home.owner == request.owner
    return False


async def listed_home(resource_id: str, resources: ResourceIndex) -> ResourceHome | None:
    """Return the home of a resource in a list, None if it is unknown. Raises HomeUnknown."""
    try:
        return await resources.home_of(resource_id, needs_owner=True)
    except IndexAway:
        raise index_away(resource_id) from None


def read_item(item: Raw) -> Listed:
    """Read an item of a list: all fields, or the id alone where others are of another kind, or nothing."""
    with contextlib.suppress(*UNREADABLE):
        return _listed_decoder.decode(item)
    with contextlib.suppress(*UNREADABLE):
        return Listed(_named_decoder.decode(item).id)
    return Listed()
