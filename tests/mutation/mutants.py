"""Mutants of a module: every place where one small fault can be planted, and the module's text with it.

A mutant replaces one expression, or one operator of a statement, and leaves all other text as it is. Pure: text in,
text out. Not here: which are drawn, and whether a test notices (`__main__`).
"""

import ast
import copy
from collections.abc import Callable, Iterator

from msgspec import Struct

COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is,
}  # fmt: skip
OPERATORS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.FloorDiv, ast.FloorDiv: ast.Mult, ast.Div: ast.Mult,
    ast.Mod: ast.Mult,
}  # fmt: skip
OPPOSITES = {"min": "max", "max": "min", "any": "all", "all": "any"}
UNTOUCHED = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


class Mutant(Struct, frozen=True):
    """One planted fault. `start` and `end` are offsets in the module's bytes."""

    module: str
    line: int
    function: str
    before: str
    after: str
    start: int
    end: int

    @property
    def title(self) -> str:
        """Where it is, and what was changed."""
        return f"{self.module}:{self.line} {self.function}: {self.before}  ->  {self.after}"


def mutants_of(module: str, text: str) -> list[Mutant]:
    """All mutants of a module's functions, in their order."""
    starts = line_starts(text)
    found = []
    for function, node in nodes_in_functions(ast.parse(text)):
        start = starts[node.lineno - 1] + node.col_offset
        end = starts[(node.end_lineno or 0) - 1] + (node.end_col_offset or 0)
        for changed in changes_of(node):
            before, after = ast.unparse(node), ast.unparse(changed)
            if isinstance(node, ast.expr):
                after = f"({after})"
            found.append(Mutant(module, node.lineno, function, before, after, start, end))
    return found


def planted(text: str, mutant: Mutant) -> str:
    """The module's text with the fault in it."""
    raw = text.encode()
    return (raw[: mutant.start] + mutant.after.encode() + raw[mutant.end :]).decode()


def line_starts(text: str) -> list[int]:
    """Where each line begins, in bytes: that is how the syntax tree counts columns."""
    starts = [0]
    for line in text.encode().splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    return starts


def nodes_in_functions(tree: ast.Module) -> Iterator[tuple[str, ast.expr | ast.AugAssign]]:
    """Expressions and augmented assignments in the bodies of functions, with the function's name. Annotations,
    defaults, decorators and f-strings are left alone."""

    def walk(node: ast.AST, function: str) -> Iterator[tuple[str, ast.expr | ast.AugAssign]]:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            for part in node.body:
                yield from walk(part, node.name)
            return
        if isinstance(node, (ast.JoinedStr, ast.arguments)) or is_docstring(node):
            return
        if function and isinstance(node, (ast.expr, ast.AugAssign)):
            yield function, node
        for name, value in ast.iter_fields(node):
            if name != "annotation":
                for part in value if isinstance(value, list) else [value]:
                    if isinstance(part, ast.AST):
                        yield from walk(part, function)

    yield from walk(tree, "")


def is_docstring(node: ast.AST) -> bool:
    """Whether a statement is a text alone."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def changes_of(node: ast.AST) -> Iterator[ast.AST]:
    """The faults that can be planted at one node."""
    for kind, change in CHANGES.items():
        if isinstance(node, kind) and (changed := change(copy.deepcopy(node))) is not None:
            yield changed


def change_comparison(node: ast.Compare) -> ast.AST | None:
    """The last comparison turned, or moved by its edge."""
    if type(node.ops[-1]) not in COMPARISONS:
        return None
    node.ops[-1] = COMPARISONS[type(node.ops[-1])]()
    return node


def change_operator(node: ast.BinOp | ast.AugAssign) -> ast.AST | None:
    """Another sum. Texts and unions of types are none."""
    if type(node.op) not in OPERATORS or any(
        isinstance(part, (ast.Constant, ast.JoinedStr)) and is_text(part) for part in ast.iter_child_nodes(node)
    ):
        return None
    node.op = OPERATORS[type(node.op)]()
    return node


def is_text(node: ast.AST) -> bool:
    """Whether a constant is a text or bytes."""
    return isinstance(node, ast.JoinedStr) or isinstance(getattr(node, "value", None), (str, bytes))


def change_bool(node: ast.BoolOp) -> ast.AST:
    """`and` for `or`."""
    node.op = ast.Or() if isinstance(node.op, ast.And) else ast.And()
    return node


def change_not(node: ast.UnaryOp) -> ast.AST | None:
    """Without its `not` or its sign."""
    return node.operand if isinstance(node.op, (ast.Not, ast.USub)) else None


def change_constant(node: ast.Constant) -> ast.AST | None:
    """One more, or the other truth."""
    if isinstance(node.value, bool):
        return ast.Constant(not node.value)
    return ast.Constant(node.value + 1) if isinstance(node.value, int) else None


def change_choice(node: ast.IfExp) -> ast.AST:
    """The other branch."""
    node.body, node.orelse = node.orelse, node.body
    return node


def change_call(node: ast.Call) -> ast.AST | None:
    """The least for the most, any for all."""
    if not isinstance(node.func, ast.Name) or node.func.id not in OPPOSITES:
        return None
    node.func.id = OPPOSITES[node.func.id]
    return node


CHANGES: dict[type[ast.AST], Callable[..., ast.AST | None]] = {
    ast.Compare: change_comparison,
    ast.BinOp: change_operator,
    ast.AugAssign: change_operator,
    ast.BoolOp: change_bool,
    ast.UnaryOp: change_not,
    ast.Constant: change_constant,
    ast.IfExp: change_choice,
    ast.Call: change_call,
}
