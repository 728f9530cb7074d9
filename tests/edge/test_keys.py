"""Who is calling: keys of the proxy in every header, alone and beside a client's own credential."""

import pytest
from msgspec.structs import replace

from service.edge import keys
from service.edge.keys import CallerIdentity, Keyring
from service.errors import BadClientKey
from service.ledger.state import ClientKey, ControlLedger
from service.settings import Secret, StaticKey
from tests.fakes import FakeProvider, reply
from tests.support.proxies import ANTHROPIC_KEY, Server

ANN, BEN = "proxy-key-of-ann", "proxy-key-of-ben"
OWN = "sk-ant-own-credential"
KEYS = (StaticKey("ann", Secret(ANN)), StaticKey("ben", Secret(BEN)))
Shown = list[tuple[bytes, bytes]]


def ring(*, open_to_all: bool = False, keyed: bool = True) -> Keyring:
    return Keyring(KEYS if keyed else (), open_to_all=open_to_all)


def shown(**headers: str) -> Shown:
    """Headers as ASGI has them."""
    return [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]


@pytest.mark.parametrize(
    ("headers", "client"),
    [
        (shown(x_api_key=ANN), CallerIdentity("ann", withhold=(b"x-api-key",))),
        (shown(authorization=f"Bearer {BEN}"), CallerIdentity("ben", withhold=(b"authorization",))),
        (shown(authorization=f"bearer  {BEN} "), CallerIdentity("ben", withhold=(b"authorization",))),
        (shown(x_ccproxy_key=ANN), CallerIdentity("ann", withhold=(b"x-ccproxy-key",))),
        (shown(x_ccproxy_key=ANN, x_api_key=OWN), CallerIdentity("ann", OWN, withhold=(b"x-ccproxy-key",))),
        (
            shown(x_ccproxy_key=ANN, authorization=f"Bearer {OWN}"),
            CallerIdentity("ann", OWN, withhold=(b"x-ccproxy-key",)),
        ),
        (
            shown(x_api_key=ANN, authorization=f"Bearer {ANN}"),
            CallerIdentity("ann", withhold=(b"x-api-key", b"authorization")),
        ),
        (shown(x_api_key=ANN, authorization=f"Bearer {OWN}"), CallerIdentity("ann", OWN, withhold=(b"x-api-key",))),
        (shown(x_api_key=OWN, authorization=f"Bearer {ANN}"), CallerIdentity("ann", OWN, withhold=(b"authorization",))),
        (
            shown(x_ccproxy_key=ANN, authorization=f"Bearer {OWN}", x_api_key=OWN),
            CallerIdentity("ann", OWN, (b"x-ccproxy-key",)),
        ),
    ],
)
def test_a_key_is_known_in_every_header(headers: Shown, client: CallerIdentity) -> None:
    """Each header may hold a key; what holds one is withheld, what holds none is the client's own."""
    found = ring().identify(headers)
    assert (found.owner, found.shared) == (client.key_id, True), "there are two owners"
    assert replace(found, owner=None, shared=False) == client


@pytest.mark.parametrize("headers", [[], shown(x_api_key=""), shown(authorization="Bearer "), shown(cookie=ANN)])
def test_nothing_shown_is_refused(headers: Shown) -> None:
    """With keys configured, a request that shows nothing is turned down; without, only beyond the loopback."""
    with pytest.raises(BadClientKey):
        ring().identify(headers)
    with pytest.raises(BadClientKey):
        ring(keyed=False).identify(headers)
    assert ring(open_to_all=True, keyed=False).identify(headers) == CallerIdentity()
    with pytest.raises(BadClientKey):
        ring(open_to_all=True).identify(headers)


@pytest.mark.parametrize("near", [ANN[:-1], ANN + "x", ANN.upper(), "", " ", ANN + "\0"])
@pytest.mark.parametrize("name", [b"x-ccproxy-key", b"authorization"])
def test_nearly_a_key_is_none(name: bytes, near: str) -> None:
    """A part of a key, more than it, or another case of it is no key."""
    with pytest.raises(BadClientKey):
        ring().identify([(name, near.encode()), (b"x-api-key", b"sk-ant-x")])


@pytest.mark.parametrize(
    "headers",
    [
        shown(x_api_key=OWN),
        shown(authorization=f"Bearer {OWN}"),
        shown(x_api_key=OWN, authorization=f"Bearer {OWN}"),
        shown(x_ccproxy_key="wrong", x_api_key=OWN),
        shown(x_ccproxy_key="wrong", x_api_key=ANN),
        shown(x_ccproxy_key=OWN, authorization=f"Bearer {ANN}"),
        shown(x_ccproxy_key="ccp_ann-000000_" + "0" * 48, x_api_key=ANN),
        shown(x_api_key=ANN, authorization="Bearer ccp_ann-000000_" + "0" * 48),
    ],
)
def test_a_credential_is_no_key_and_hides_no_wrong_one(headers: Shown) -> None:
    """Where keys are asked for, a client's own credential opens nothing, and a wrong key is refused beside anything."""
    asks = Keyring(KEYS, open_to_all=False, control=ControlLedger)
    with pytest.raises(BadClientKey):
        asks.identify(headers)


def test_without_keys_a_credential_is_enough() -> None:
    """On the loopback, when nothing is configured: the client's own goes up, and a key that nobody knows is ignored."""
    open_ring = ring(open_to_all=True, keyed=False)
    assert open_ring.identify(shown(x_api_key=OWN)) == CallerIdentity(credential=OWN)
    assert open_ring.identify(shown(x_api_key=OWN, x_ccproxy_key="of-another-proxy")) == CallerIdentity(credential=OWN)


@pytest.mark.parametrize("name", [b"x-api-key", b"authorization", b"x-ccproxy-key"])
@pytest.mark.parametrize("keyed", [True, False])
def test_one_request_makes_one_guess(name: bytes, keyed: bool) -> None:  # noqa: FBT001
    """A thousand headers of one name would be a thousand guesses, the right one among them."""
    guesses = [(name, b"guess-%d" % number) for number in range(999)]
    with pytest.raises(BadClientKey, match="duplicate"):
        ring(keyed=keyed, open_to_all=not keyed).identify([*guesses, (name, ANN.encode())])


def test_keys_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every known key is compared, by digest, whichever one fits."""
    compared: list[tuple[bytes, bytes]] = []

    def note(one: bytes, other: bytes) -> bool:
        compared.append((one, other))
        return one == other

    monkeypatch.setattr(keys, "compare_digest", note)
    assert ring().identify(shown(x_api_key=ANN)).key_id == "ann"
    assert len(compared) == len(KEYS)
    assert all(len(one) == len(other) == 32 for one, other in compared)


@pytest.mark.parametrize("headers", [{}, {"x-api-key": "wrong"}, {"authorization": "Bearer wrong"}])
async def test_a_wrong_key_is_final(server: Server, anthropic: FakeProvider, headers: dict[str, str]) -> None:
    """Without a right key: 401 in Anthropic's shape, no use in trying again, and no request goes up."""
    served = await server.start(anthropic=anthropic, variables={"PROXY_API_KEYS": f"ann:{ANN}"})
    answer = await served.ask(headers=headers)
    assert answer.status_code == 401
    assert answer.json()["error"]["type"] == "authentication_error"
    assert answer.headers["x-should-retry"] == "false"
    assert anthropic.requests == []
    assert served.events == [], "nobody may grow the ledger without a key"


@pytest.mark.parametrize("name", ["x-api-key", "authorization", "x-ccproxy-key"])
async def test_a_right_key_is_served(server: Server, anthropic: FakeProvider, name: str) -> None:
    """With a right key, in any of its headers, the owner's credential goes up and the key does not."""
    served = await server.start(anthropic=anthropic, variables={"PROXY_API_KEYS": f"ann:{ANN},ben:{BEN}"})
    answer = await served.ask(headers={name: f"Bearer {BEN}" if name == "authorization" else BEN})
    assert answer.status_code == 200
    assert anthropic.requests[0].header("x-api-key") == ANTHROPIC_KEY
    assert BEN not in str(anthropic.requests[0].headers)
    assert served.ends[0][1].client_key == "ben"


async def test_a_clients_own_credential_goes_to_anthropic_alone(
    server: Server, anthropic: FakeProvider, zai: FakeProvider
) -> None:
    """Without any owner's key the client's own goes up as it came, and its refusal comes back as it is."""
    anthropic.keys = {OWN}
    served = await server.start(variables={"ANTHROPIC_BASE_URL": anthropic.base_url, "ZAI_BASE_URL": zai.base_url})
    good = await served.ask(headers={"authorization": f"Bearer {OWN}"})
    assert (good.status_code, good.headers["x-ccproxy-route"]) == (200, "anthropic:client")
    anthropic.script(reply.message())
    bad = await served.ask(headers={"x-api-key": "sk-ant-of-nobody"})
    assert bad.status_code == 401
    assert zai.requests == []
    assert anthropic.requests[0].header("authorization") == f"Bearer {OWN}"


def test_an_owner_may_have_several_keys() -> None:
    """Owners are told apart by the names of their keys, whatever keys they have; as long as that is not known, there
    are several."""
    one = (StaticKey("ann", Secret(ANN)), StaticKey("ann", Secret(BEN)))
    assert not Keyring(one, open_to_all=False).identify(shown(x_api_key=ANN)).shared
    assert Keyring(one, open_to_all=False, ledger_keys=True).identify(shown(x_api_key=ANN)).shared
    control = ControlLedger(keys={"k-1": ClientKey(name="ann", sha256="0" * 64)})
    assert not Keyring(one, open_to_all=False, control=lambda: control).identify(shown(x_api_key=ANN)).shared
    control.keys["k-2"] = ClientKey(name="ben", sha256="0" * 64)
    assert Keyring(one, open_to_all=False, control=lambda: control).identify(shown(x_api_key=ANN)).shared
