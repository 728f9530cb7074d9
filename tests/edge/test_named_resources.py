"""The resources that a request's path and query name."""

import pytest

from service.edge.request_parser import path_ids, query_ids
from service.edge.request_target import read_target

AGENT = "agent_01AbCdEfGh1234"


@pytest.mark.parametrize(
    ("path", "ids"),
    [
        (f"/v1/agents/{AGENT}/versions", (AGENT,)),
        ("/v1/agents", ()),
        ("/v1/skills/skill_01AbCdEfGh/versions/1759178010641129", ("skill_01AbCdEfGh",)),
        ("/v1/skills/xlsx/versions/1759178010641129", ()),
        ("/v1/sessions/sesn_01AbCdEfGh/threads/sthr_01AbCdEfGh/events", ("sesn_01AbCdEfGh",)),
    ],
)
def test_a_path_names_the_resource_that_holds_the_others(path: str, ids: tuple[str, ...]) -> None:
    """Below a provider's own skill there is nothing of anybody's."""
    assert path_ids(read_target("GET", path.encode())) == ids


@pytest.mark.parametrize(
    ("target", "ids"),
    [
        (f"/v1/sessions?agent_id={AGENT}&limit=20", (AGENT,)),
        ("/v1/files?scope_id=sesn_01AbCdEfGh&after_id=file_01AbCdEfGh", ("sesn_01AbCdEfGh",)),
        ("/v1/files?ids%5B%5D=file_01AbCdEfGh&ids[]=file_02AbCdEfGh&ids[]=file_01AbCdEfGh",
         ("file_01AbCdEfGh", "file_02AbCdEfGh")),
        (f"/v1/sessions?workspace_id=wrkspc_01AbCdEfGh&agent_id={AGENT.replace('_', '%5F')}", (AGENT,)),
        ("/v1/sessions?agent_id=", ()),
        ("/v1/sessions?agent_id=a", ()),
        (f"/v1/models?agent_id={AGENT}", ()),
    ],
)  # fmt: skip
def test_a_query_names_what_a_list_is_asked_for(target: str, ids: tuple[str, ...]) -> None:
    """Each once, however it is escaped; cursors name items of anybody."""
    assert query_ids(read_target("GET", target.encode())) == ids


def test_the_number_of_resources_is_bounded() -> None:
    """A list has no more."""
    query = "&".join(f"ids[]=file_{number:08}" for number in range(150))
    assert len(query_ids(read_target("GET", f"/v1/files?{query}".encode()))) == 100
