"""Names mean one thing, and the workers import no more of the service than is listed here."""

import ast
from collections import defaultdict
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
MODULES = 3
"""A function's name may stand in so many modules."""
WORKERS_MAY_IMPORT = (
    "service.egress",
    "service.ledger",
    "service.redis_client",
    "service.settings",
    "service.telemetry",
    "service.version",
)


@cache
def modules() -> tuple[tuple[str, ast.Module], ...]:
    """All modules of the product, parsed."""
    paths = (path for folder in ("service", "workers") for path in sorted((ROOT / folder).rglob("*.py")))
    return tuple((name_of(path), ast.parse(path.read_text(encoding="utf-8"))) for path in paths)


def name_of(path: Path) -> str:
    """A module's name."""
    return str(path.relative_to(ROOT)).removesuffix(".py").replace("/", ".").removesuffix(".__init__")


def test_class_names_are_unique() -> None:
    found: dict[str, list[str]] = defaultdict(list)
    for module, tree in modules():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                found[node.name].append(module)
    assert {name: places for name, places in found.items() if len(places) > 1} == {}


def test_a_functions_name_stands_in_few_modules() -> None:
    found: dict[str, set[str]] = defaultdict(set)
    for module, tree in modules():
        for node in tree.body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name != "main":
                found[node.name].add(module)
    assert {name: places for name, places in found.items() if len(places) > MODULES} == {}


def test_the_workers_import_what_is_listed() -> None:
    imported: dict[str, set[str]] = defaultdict(set)
    for module, tree in modules():
        if not module.startswith("workers"):
            continue
        for node in ast.walk(tree):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for name in names:
                if name.startswith("service"):
                    imported[name].add(module)
    allowed = tuple(f"{package}." for package in WORKERS_MAY_IMPORT)
    assert {name: places for name, places in imported.items() if not f"{name}.".startswith(allowed)} == {}
