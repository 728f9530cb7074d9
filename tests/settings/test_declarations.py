"""Each setting is declared once, can be read, and is used."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec import Struct

from service.settings import VARIABLES, Provider, Route, Settings, StaticKey
from service.settings.database import DatabaseParts
from service.settings.invoice import InvoiceSettings
from service.settings.reader import parser_of
from service.settings.routes import ROUTE_SETTINGS
from service.settings.setting import Section, Setting, SettingField, setting_fields
from service.settings.variables import WITHOUT_FIELD, declared

ROOT = Path(__file__).parents[2]
IN_SETTINGS = ROOT / "service" / "settings"
STRUCTS: tuple[type[Struct], ...] = (Settings, InvoiceSettings, *ROUTE_SETTINGS, DatabaseParts)
DECLARED = [each for struct in STRUCTS for each in declared(struct)]
READ_BY_OTHERS = {
    "CCPROXY_CONFIG": "service/settings/files.py",
    "NO_COLOR": "service/telemetry/log.py",
    "SSL_CERT_FILE": "service/egress.py",
}
"""HTTPS_PROXY is read by the standard library: `urllib.request.getproxies`."""


def trees(*folders: Path) -> Iterator[tuple[Path, ast.Module]]:
    for folder in folders:
        for path in sorted(folder.rglob("*.py")):
            yield path, ast.parse(path.read_text(encoding="utf-8"))


def attributes_read(tree: ast.AST) -> set[str]:
    """The names of attributes that code reads, whatever it reads them of."""
    return {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)}


def read_outside() -> set[str]:
    """Attributes read outside service/settings, and those that the properties read there are made of."""
    modules = list(trees(ROOT / "service", ROOT / "workers"))
    found = {name for path, tree in modules if IN_SETTINGS not in path.parents for name in attributes_read(tree)}
    for _, tree in trees(IN_SETTINGS):
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and node.decorator_list and node.name in found:
                found |= attributes_read(node)
    return found


def structs_of(struct: type[Struct]) -> Iterator[type[Struct]]:
    """A struct of settings and those in it."""
    yield struct
    for field in setting_fields(struct):
        if field.struct and field.struct.__module__.startswith("service.settings"):
            yield from structs_of(field.struct)


def test_each_setting_is_used() -> None:
    """A setting that is read and checked and then used nowhere would lie to those who set it."""
    used = read_outside()
    structs: list[type[Struct]] = [*structs_of(Settings), InvoiceSettings, Provider, StaticKey]
    fields = {f"{struct.__name__}.{field.name}": field.name for struct in structs for field in setting_fields(struct)}
    assert {place for place, name in fields.items() if name not in used} == set()
    assert "database_connect_ms" in fields.values()


def test_the_parts_of_routes_and_of_the_database_are_used() -> None:
    """They become routes and a URL before anybody else sees the settings."""
    used = {name for _, tree in trees(IN_SETTINGS) for name in attributes_read(tree)}
    names = {field.name for struct in (*ROUTE_SETTINGS, DatabaseParts) for field in setting_fields(struct)}
    assert names <= used


def test_a_variable_without_a_field_is_read_by_others_or_says_that_it_has_no_effect() -> None:
    documented = {one.variable for one in WITHOUT_FIELD if not one.meaning.startswith("accepted without effect")}
    assert documented == READ_BY_OTHERS.keys() | {"HTTPS_PROXY", "ALL_PROXY"}
    for name, place in READ_BY_OTHERS.items():
        tree = ast.parse((ROOT / place).read_text(encoding="utf-8"))
        assert name in {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}


def test_each_variable_is_declared_once() -> None:
    names = [variable.name for variable in VARIABLES]
    assert sorted(names) == sorted(set(names))
    assert {variable.section for variable in VARIABLES} == set(Section)


@pytest.mark.parametrize(("field", "setting"), DECLARED, ids=[setting.variable for _, setting in DECLARED])
def test_a_declared_type_can_be_read(field: SettingField, setting: Setting) -> None:
    """A mistake in a declaration shows here, not when somebody sets the variable; a default is within its bounds."""
    assert callable(parser_of(field, setting))
    if field.kind in (int, float) and not setting.parse:
        assert setting.least <= field.default <= setting.most


def test_declarations_are_found_wherever_they_are() -> None:
    """No struct with declarations is missing from the list of variables."""
    written = {
        str(node.args[0].value)
        for _, tree in trees(IN_SETTINGS)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "Setting"
        and isinstance(node.args[0], ast.Constant)
    }
    assert written == {variable.name for variable in VARIABLES}


@pytest.mark.parametrize(
    ("name", "default", "allowed"),
    [
        ("PROXY_PORT", "4181", "1 to 65535"),
        ("MAX_BODY_BYTES", "33554432", "at least 1024"),
        ("QUOTA_WARNING_THRESHOLD", "90", "1 to 100"),
        ("CONTEXT_WINDOW_TRUNCATION_THRESHOLD", "0.8", "0.01 to 1"),
        ("SESSION_AFFINITY", "true", "true, false"),
        ("LOG_LEVEL", "info", "debug, info, warn, error, silent"),
        ("DRAIN_DELAY", "5s; 0 on the loopback", ""),
        ("DB_PASSWORD", "postgres", ""),
        ("ADMIN_TOKEN", "created at the first start", ""),
        ("VIEWER_TOKEN", "", ""),
    ],
)
def test_the_documentation_follows_from_the_declaration(name: str, default: str, allowed: str) -> None:
    [variable] = [variable for variable in VARIABLES if variable.name == name]
    assert (variable.default, variable.allowed) == (default, allowed)


def test_routes_are_looked_at_as_well() -> None:
    """`structs_of` does not enter the tuple of routes, but `client_route` is one too."""
    assert Route in set(structs_of(Settings))
