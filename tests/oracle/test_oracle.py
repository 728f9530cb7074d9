"""What the newest SDK names is known here, and what the table says of it is what the code does."""

from __future__ import annotations

from fnmatch import fnmatch

import msgspec
import pytest

from service.edge.request_parser import path_ids, query_ids
from service.edge.request_target import read_target
from service.ledger.events import TokenCounts
from service.ledger.price import cost_nusd
from service.protocol.resource_totals import totals_in
from service.protocol.tap import carries_content, json_usage
from service.protocol.usage_reader import UsageReader
from service.providers.blocks_compat import BlockRules, clean_block
from service.providers.headers import upstream_headers
from service.relay.client import ClientRequest
from service.relay.ownership import is_list
from service.relay.responses import created_ids
from service.routing.context import limits_of
from service.routing.failure import Facts, FailureTable
from service.routing.request_fields import TABLES
from service.settings import from_variables
from service.settings.failure_rules import packaged_rules
from tests.oracle import sdk
from tests.support.wire_table import table

SECTIONS = table()
NAMES = [
    (kind, decision, name)
    for kind, section in SECTIONS.items()
    for decision, names in section.rows.items()
    for name in names
]
OF_ADMINISTRATION = ("organizations", "compliance")
HEADERS = frozenset(("betas", "user_profile_id", "workspace_id"))
OF_THE_SDK = frozenset(("output_format",))
"""Parameters that the SDK itself turns into fields of the table."""
TYPE_OF_STATUS = {
    400: "invalid_request_error", 402: "billing_error", 403: "permission_error", 404: "not_found_error",
    409: "conflict_error", 412: "invalid_request_error", 413: "request_too_large", 429: "rate_limit_error",
    503: "api_error", 529: "overloaded_error",
}  # fmt: skip
RULES = FailureTable(packaged_rules())
SETTINGS = from_variables({"CCPROXY_HOME": "/nowhere"})
TOKENS = TokenCounts(1_000, 1_000)


def rows_of(kind: str) -> list[tuple[str, str]]:
    """The names of a kind with what the table says."""
    return [(decision, name) for of_kind, decision, name in NAMES if of_kind == kind]


@pytest.mark.parametrize("kind", SECTIONS)
def test_every_name_of_the_sdk_has_one_row_and_every_row_a_name(kind: str) -> None:
    """What fails here has changed in the world: decide what the proxy makes of it, and add or remove its row."""
    named, rows = sdk.KINDS[kind](), SECTIONS[kind].names
    patterns = [name for name in rows if name.endswith("*")]
    new = {name for name in named if name not in rows and not any(fnmatch(name, each) for each in patterns)}
    gone = {name for name in rows if not any(fnmatch(each, name) for each in named)}
    assert {"new": sorted(new), "gone": sorted(gone)} == {"new": [], "gone": []}
    assert len(rows) == len(set(rows))


def test_every_kind_is_looked_at() -> None:
    """Fields of requests have their own table, with the same rule."""
    assert {*SECTIONS, "fields"} == sdk.KINDS.keys()
    assert sdk.fields() - HEADERS - OF_THE_SDK - {"output_config"} <= TABLES["compatible"].keys()


@pytest.mark.parametrize(("decision", "model"), rows_of("models"))
def test_models_have_a_price_and_a_window(decision: str, model: str) -> None:
    """One without a price is known to have none."""
    is_priced = cost_nusd(TOKENS, model, SETTINGS.prices) is not None
    assert is_priced == (decision == "priced")
    assert limits_of(model, SETTINGS.policy).context_tokens


@pytest.mark.parametrize(("decision", "name"), rows_of("price_words"))
def test_words_that_change_a_price_are_priced(decision: str, name: str) -> None:
    """Those without a factor leave usage without a price, which is reported."""
    field, word = name.split()
    tier, speed = (word, "standard") if field == "service_tier" else ("standard", word)
    cost = cost_nusd(TOKENS, "claude-opus-5", SETTINGS.prices, tier=tier, speed=speed)
    assert (cost is not None) == (decision == "priced")


SAMPLES: dict[str, object] = {
    "cache_creation": {"ephemeral_5m_input_tokens": 5},
    "fallback_credit": {"status": {"type": "redeemed"}},
    "iterations": [{"type": "message", "input_tokens": 5}],
    "list_cost": {"amount": "5", "currency": "USD"},
    "output_tokens_details": {"thinking_tokens": 5},
    "server_tool_use": {"web_search_requests": 5},
    "status": {"type": "redeemed"},
    "model": "claude-opus-5",
    "service_tier": "priority",
    "speed": "fast",
    "inference_geo": "us",
}
"""Values of fields that are no counts."""
WITHIN = {
    "CacheCreation": "cache_creation",
    "CacheCreationUsage": "cache_creation",
    "FallbackCreditUsage": "fallback_credit",
    "OutputTokensDetails": "output_tokens_details",
    "ServerToolUsage": "server_tool_use",
}
"""Objects within usage."""
TOTALS = {"SessionUsage": "session", "SessionUsageSnapshot": "session.usage", "SessionThreadUsage": "session_thread",
          "DreamUsage": "dream"}  # fmt: skip
ITERATIONS = {"Message": "message", "FallbackMessage": "fallback_message", "Compaction": "compaction",
              "AdvisorMessage": "advisor_message"}  # fmt: skip


NOT_LOOKED_INTO = frozenset(
    ("FallbackCreditUsage", "FallbackMessageIterationUsage", "MessageIterationUsage", "OutputTokensDetails")
)
"""Objects that say more of what the totals have."""


def usage_with(owner: str, field: str) -> dict[str, object]:
    """Usage in which a field of a class holds something."""
    value = {field: SAMPLES.get(field, 5)}
    if owner.endswith("IterationUsage"):
        return {
            "iterations": [{"input_tokens": 5} | value | {"type": ITERATIONS[owner.removesuffix("IterationUsage")]}]
        }
    return {WITHIN[owner]: value} if owner in WITHIN else value


@pytest.mark.parametrize(("decision", "name"), [row for row in rows_of("usage") if row[0] in ("read", "part")])
def test_usage_of_an_answer_is_read(decision: str, name: str) -> None:
    """No field is reported as unread; one that is not known would be, in the same place."""
    owner, field = name.split(".")
    for known, told in ((True, field), (False, "new_field")):
        reader = UsageReader()
        reader.merge(usage_with(owner, told))
        is_reported = not known and owner not in NOT_LOOKED_INTO
        assert bool(reader.reading("claude-opus-5").unread) == is_reported, decision


@pytest.mark.parametrize("name", [name for decision, name in rows_of("usage") if decision == "running_total"])
def test_usage_of_a_resource_is_read(name: str) -> None:
    """As its running total, with nothing unread."""
    owner, field = name.split(".")
    if owner == "SessionUsageEvent":
        return  # the event around a snapshot
    kind = TOTALS.get(owner, "session")
    body = {"type": kind, "id": "sesn_01", "session_id": "sesn_02", "usage": usage_with(owner, field)}
    [total] = totals_in("/v1/sessions/sesn_02/events", msgspec.json.encode(body))
    assert total.unread == ()
    assert total.kind == kind.removesuffix(".usage")


@pytest.mark.parametrize(("decision", "kind"), rows_of("iterations"))
def test_iterations_are_read(decision: str, kind: str) -> None:
    """Whatever their kind; one of another kind is reported."""
    for told, unread in ((kind, ()), ("new", ("iterations.new",))):
        reader = UsageReader()
        reader.merge({"iterations": [{"type": told, "input_tokens": 5}]})
        assert reader.reading("claude-opus-5").unread == unread, decision


@pytest.mark.parametrize(("decision", "name"), rows_of("errors"))
def test_errors_are_classified_as_the_table_says(decision: str, name: str) -> None:
    """Whole and inside a stream; what is about administration concerns the request alone."""
    status, _, code = name.partition(" ")
    facts = Facts(error_type=name, message="x")
    if code:
        facts = Facts(int(status), TYPE_OF_STATUS[int(status)], code, "x")
    rule = RULES.first(facts, 0)
    found = f"{rule.kind}/{rule.scope}{'' if rule.proven else ', unproven'}"
    if decision == "administration":
        assert rule.scope == "request" or int(status) >= 500
    else:
        assert found == decision


@pytest.mark.parametrize(("decision", "kind"), rows_of("answer_blocks"))
def test_content_begins_where_the_table_says(decision: str, kind: str) -> None:
    """With the block, or with its first delta."""
    assert carries_content({"type": kind}) == (decision == "whole")


RULES_OF_BLOCKS = BlockRules("none", refused=(), reads_images=True, one_text=True)


@pytest.mark.parametrize(("decision", "kind"), rows_of("request_blocks"))
def test_blocks_become_what_the_table_says(decision: str, kind: str) -> None:
    """At providers that are not Anthropic."""
    block = clean_block({"type": msgspec.Raw(msgspec.json.encode(kind))}, RULES_OF_BLOCKS)
    assert block is not None
    assert msgspec.json.decode(block["type"]) == (kind if decision == "kept" else "text")


@pytest.mark.parametrize(("decision", "beta"), rows_of("betas"))
def test_betas_are_passed_to_anthropic_alone(decision: str, beta: str) -> None:
    """Whatever they are for."""
    for dialect in ("anthropic", "zai", "compatible"):
        headers = upstream_headers([(b"anthropic-beta", beta.encode())], dialect=dialect, auth="api_key")
        assert ((b"anthropic-beta", beta.encode()) in headers) == (dialect == "anthropic"), decision


@pytest.mark.parametrize(("decision", "dotted"), rows_of("resources"))
def test_resources_live_where_the_table_says(decision: str, dotted: str) -> None:
    """What is made is noted, what a path names goes to its route, and lists have the caller's own items alone."""
    words = dotted.split(".")
    if decision == "administration":
        assert words[0] in OF_ADMINISTRATION
        return
    if decision == "request":
        target = "/v1/models/claude-opus-5" if dotted == "models" else f"/v1/{'/'.join(words)}"
        assert path_ids(read_target("GET", target.encode())) == ()
        return
    depth = 2 if dotted.startswith("messages.batches") else 1
    root, made_id = "/".join(words[:depth]), "xyz_01AbCdEfGh1234"
    below = "/".join((root, made_id, *words[depth:]))
    assert path_ids(read_target("GET", f"/v1/{below}".encode())) == (made_id,)
    answer = json_usage(msgspec.json.encode({"id": made_id, "type": words[0]}))
    assert answer
    assert created_ids(request_for("POST", f"/v1/{root}"), answer) == (made_id,)
    assert is_list(request_for("GET", f"/v1/{root}"))


@pytest.mark.parametrize(("decision", "name"), rows_of("queries"))
def test_lists_come_from_the_route_of_what_they_name(decision: str, name: str) -> None:
    """And from any, if they name nothing that lives on one."""
    target = read_target("GET", f"/v1/files?limit=5&{name}=xyz_01AbCdEfGh1234".encode())
    assert bool(query_ids(target)) == (decision == "bound")


def request_for(method: str, path: str) -> ClientRequest:
    """A request of one client among several."""
    target = read_target(method, path.encode())
    return ClientRequest(request_id="q", method=method, path=path, endpoint=target.endpoint, shared=True)
