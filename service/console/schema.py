"""The OpenAPI document and its page at `/schema`: plain HTML, so that it works offline and without scripts."""

from collections.abc import Iterator
from html import escape
from typing import Any

from litestar import Request
from litestar.openapi.config import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin, OpenAPIRenderPlugin
from litestar.openapi.spec import Components, SecurityScheme

from service.console.auth import COOKIE

METHODS = ("get", "post", "put", "delete")
STYLE = """
:root{color-scheme:light dark}body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}
code{font-family:ui-monospace,monospace}summary{cursor:pointer;padding:.3rem 0}details{border-bottom:1px solid #8884}
table{border-collapse:collapse;margin:.3rem 0 1rem}
td,th{text-align:left;padding:.15rem 1rem .15rem 0;vertical-align:top}
.method{display:inline-block;min-width:4.5rem;font-weight:600}
"""


def openapi_config(version: str) -> OpenAPIConfig:
    """Return the document's metadata."""
    return OpenAPIConfig(
        title="Claude Code Proxy",
        version=version,
        description=(
            "Health, metrics and the admin API. Reading needs the admin or viewer token, changes need the admin token: "
            "as a bearer token, or as a session cookie together with its CSRF token in `x-ccproxy-csrf`. The "
            "Messages API below /v1 is Anthropic's, and not described here."
        ),
        path="/schema",
        render_plugins=[SchemaPage(path="/"), JsonRenderPlugin(path="/openapi.json")],
        components=Components(
            security_schemes={
                "bearer": SecurityScheme(type="http", scheme="bearer"),
                "session": SecurityScheme(type="apiKey", name=COOKIE, security_scheme_in="cookie"),
            }
        ),
        use_handler_docstrings=True,
    )


class SchemaPage(OpenAPIRenderPlugin):
    """Renders the document as a page."""

    def render(self, request: Request[Any, Any, Any], openapi_schema: dict[str, Any]) -> bytes:  # noqa: ARG002
        """Return the page."""
        info = openapi_schema["info"]
        operations = "".join(operation_html(openapi_schema, *each) for each in operations_of(openapi_schema))
        title = f"{escape(info['title'])} {escape(info['version'])}"
        return (
            f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}: API</title>'
            f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head><body><main>'
            f"<h1>{title}</h1><p>{escape(info.get('description', ''))}</p>"
            f'<p>For programs: <a href="schema/openapi.json">openapi.json</a></p>{operations}</main></body></html>'
        ).encode()


def operations_of(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield all operations: method, path and description."""
    for path, item in sorted(document.get("paths", {}).items()):
        for method in METHODS:
            if method in item:
                yield method, path, item[method]


def operation_html(document: dict[str, Any], method: str, path: str, operation: dict[str, Any]) -> str:
    """Return a collapsible operation."""
    words = " ".join(escape(operation.get(name) or "") for name in ("description",))
    head = f'<span class="method">{method.upper()}</span> <code>{escape(path)}</code> {escape(operation["summary"])}'
    parameters = "".join(parameter_html(document, one) for one in operation.get("parameters", ()))
    body = operation.get("requestBody", {}).get("content", {})
    takes = "".join(f"<p>Request body</p>{shape_html(document, one.get('schema', {}))}" for one in body.values())
    answers = "".join(answer_html(document, status, one) for status, one in sorted(operation["responses"].items()))
    table = f"<table>{parameters}</table>" if parameters else ""
    return f"<details><summary>{head}</summary><p>{words}</p>{table}{takes}<p>Responses</p>{answers}</details>"


def parameter_html(document: dict[str, Any], parameter: dict[str, Any]) -> str:
    """Return the table row of a query or path parameter."""
    kind = kind_of(document, parameter.get("schema", {}))
    return f"<tr><td><code>{escape(parameter['name'])}</code></td><td>{parameter['in']}</td><td>{kind}</td></tr>"


def answer_html(document: dict[str, Any], status: str, answer: dict[str, Any]) -> str:
    """Return the table row of a status; only successful ones show their shape."""
    shapes = [one.get("schema", {}) for one in answer.get("content", {}).values()]
    shape = "".join(shape_html(document, one) for one in shapes) if status.startswith("2") else ""
    return f"<p><b>{status}</b> {escape(answer.get('description', ''))}</p>{shape}"


def shape_html(document: dict[str, Any], schema: dict[str, Any]) -> str:
    """Return the fields of an object, or of a list's items."""
    found = resolved(document, schema)
    prefix = "a list of " if found.get("type") == "array" else ""
    found = resolved(document, found.get("items", {})) if prefix else found
    words = found.get("description", "").partition("\n")[0]
    rows = "".join(
        f"<tr><td><code>{escape(name)}</code></td><td>{kind_of(document, one)}</td></tr>"
        for name, one in found.get("properties", {}).items()
    )
    return f"<p>{prefix}<i>{escape(str(found.get('title', '')))}</i> {escape(words)}</p><table>{rows}</table>"


def kind_of(document: dict[str, Any], schema: dict[str, Any]) -> str:
    """Return a short name of a type."""
    if "$ref" in schema:
        return escape(str(resolved(document, schema).get("title", schema["$ref"].rpartition("/")[2])))
    for name in ("oneOf", "anyOf"):
        if name in schema:
            return " or ".join(kind_of(document, one) for one in schema[name])
    if schema.get("type") == "array":
        return f"list of {kind_of(document, schema.get('items', {}))}"
    if "enum" in schema:
        return ", ".join(escape(str(one)) for one in schema["enum"])
    return escape(str(schema.get("type", "any")))


def resolved(document: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    """Resolve a reference."""
    if "$ref" not in schema:
        return schema
    found: dict[str, Any] = document["components"]["schemas"].get(schema["$ref"].rpartition("/")[2], {})
    return found
