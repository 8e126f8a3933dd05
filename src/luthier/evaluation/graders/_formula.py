"""Arithmetic over grades by name, the wire's ``calculate_output``: read into a tree, of which only what is known is reckoned."""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Collection
from typing import Any

from luthier.core.errors import SpecError

LONGEST = 500
"""Characters. A longer one is no formula of a few grades."""

_TWO: dict[type, Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
}
_ONE: dict[type, Callable[[float], float]] = {ast.UAdd: operator.pos, ast.USub: operator.neg}
_CALLED: dict[str, Callable[..., float]] = {
    "min": min,
    "max": max,
    "abs": abs,
    "floor": math.floor,
    "ceil": math.ceil,
    "exp": math.exp,
    "sqrt": math.sqrt,
    "log": math.log,
}


def formula(text: str, names: Collection[str]) -> Callable[[dict[str, float]], float]:
    """A formula over grades by name, with ``+ - * / ^``, brackets, and min, max, abs, floor, ceil, exp, sqrt, log.

    What it gives is 0 where there is no number: a division by zero, a root of a negative one.

    Raises:
        SpecError: it is no such formula, or has another name in it.
    """
    try:
        tree = ast.parse(text.strip().replace("^", "**"), mode="eval").body if len(text) <= LONGEST else None
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        tree = None
    strange = f"it is no formula of at most {LONGEST} characters" if tree is None else _strange(tree, names)
    if strange:
        known = f"Use + - * / ^, brackets, {', '.join(_CALLED)}, and the graders: {', '.join(names)}."
        raise SpecError(f"calculate_output {text[:80]!r} does not do: {strange}.", remedy=known, code="bad_value")

    def reckon(grades: dict[str, float]) -> float:
        try:
            found = _value(tree, grades)
        except (ArithmeticError, ValueError, TypeError):
            return 0.0
        return float(found) if isinstance(found, int | float) and math.isfinite(found) else 0.0

    return reckon


def _strange(node: Any, names: Collection[str]) -> str:
    """What in a tree is not known; empty where everything is."""
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        return ""
    if isinstance(node, ast.Name):
        return "" if node.id in names else f"there is no grader {node.id!r}"
    if isinstance(node, ast.BinOp) and type(node.op) in _TWO:
        return _strange(node.left, names) or _strange(node.right, names)
    if isinstance(node, ast.UnaryOp) and type(node.op) in _ONE:
        return _strange(node.operand, names)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _CALLED and node.args and not node.keywords:
        return next((found for inner in node.args if (found := _strange(inner, names))), "")
    return f"{ast.unparse(node)[:40]!r} is not reckoned"


def _value(node: Any, grades: dict[str, float]) -> float:
    """A tree in which nothing is strange."""
    if isinstance(node, ast.Constant):
        return float(node.value)  # type: ignore[arg-type]
    if isinstance(node, ast.Name):
        return grades[node.id]
    if isinstance(node, ast.BinOp):
        return _TWO[type(node.op)](_value(node.left, grades), _value(node.right, grades))
    if isinstance(node, ast.UnaryOp):
        return _ONE[type(node.op)](_value(node.operand, grades))
    return _CALLED[node.func.id](*(_value(inner, grades) for inner in node.args))
