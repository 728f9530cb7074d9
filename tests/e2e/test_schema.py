"""The admin API against its own OpenAPI document: whatever is asked, no 5xx, and nothing that is not documented."""

from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from hypothesis import given as given_by
from schemathesis.specs.openapi.checks import ignored_auth, positive_data_acceptance

from service import app
from service.settings import load
from tests.support.installation import Installation, Proxy

pytestmark = pytest.mark.e2e

ADMIN = "admin-token-marked-0123456789"
STREAMS = ("/admin/api/live", "/logs/stream")
"""Answers that do not end."""
CASES = 8
LEFT_OUT = [ignored_auth, positive_data_acceptance]
"""Who may ask has tests of its own; limits within lists and unions are not in the document, and are a 400."""


@pytest.fixture(scope="module")
def proxy(shared_installation: Installation) -> Proxy:
    """A proxy whose token the test knows."""
    return shared_installation.start_proxy({"ADMIN_TOKEN": ADMIN})


@pytest.fixture(scope="module")
def document(proxy: Proxy) -> Any:
    return httpx.get(f"{proxy.url}/schema/openapi.json", trust_env=False).json()


def operations() -> list[tuple[str, str]]:
    """All that the document names, but streams; taken from an application that does not run."""
    made: Any = app.create_app(app.Parts(load(None, {"CCPROXY_HOME": str(Path("/nonexistent/ccproxy"))})))
    while not hasattr(made, "openapi_schema"):  # the framework's application, below what is laid around it
        inner = [cell.cell_contents for cell in made.__closure__]
        made = next(one for one in inner if hasattr(one, "openapi_schema") or getattr(one, "__closure__", None))
    return [
        (method.upper(), path)
        for path, item in made.openapi_schema.to_schema()["paths"].items()
        for method in ("get", "post", "put", "delete")
        if method in item and path not in STREAMS
    ]


@pytest.mark.parametrize(("method", "path"), sorted(operations()))
def test_every_operation_answers_as_documented(proxy: Proxy, document: Any, method: str, path: str) -> None:
    """Made-up parameters and bodies, right and wrong ones: statuses, types and shapes are those of the document."""
    schema = schemathesis.openapi.from_dict(document)
    schema.config.update(base_url=proxy.url)

    @given_by(case=schema[path][method].as_strategy())
    @settings(
        max_examples=CASES,
        database=None,
        deadline=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def check(case: Any) -> None:
        case.call_and_validate(headers={"authorization": f"Bearer {ADMIN}"}, timeout=20, excluded_checks=LEFT_OUT)

    check()
