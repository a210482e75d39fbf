"""One small expression language for objectives, value formulas and rule conditions.

    rating >= 4
    watch + like_weight * like
    year < 1950 and contains(genres, 'Horror')
    min_age <= user.age

A text is parsed by Python's own parser, checked node by node against an allow-list, type-checked, and compiled to
nested partials over numpy columns: nothing is ever evaluated as code, and a compiled expression can be pickled.

where(c, x) is the number x in rows in which c holds, and 0 elsewhere. In objectives, count(c) is the number of rows of a
group (events of one user with one item within the horizon) in which c holds; a row alone is a group of its own.

Types: number (NaN is missing), category (a string, None is missing), categories (a tuple of strings, empty is missing),
boolean. A comparison with something missing is false, `!=` and `not in` included. Arithmetic is float64; a result
that is not finite (division by zero, root of a negative number, overflow) is missing.
"""

import ast
import difflib
import functools
import sys
import warnings
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from recsys.errors import ConfigError, DataError

MAX_LENGTH = 2_000
"""characters"""
MAX_DEPTH = 50
"""nested operations"""

ACTION_TYPES: Mapping[str, str] = {"number": "number", "word": "category"}
"""kind of an action -> its type in an expression"""
GROUPS = " groups"
"""key of columns, which no text can name: number of the group of each row, [R] int, over which `count` adds up"""

Columns = Mapping[str, np.ndarray]
Evaluate = Callable[[Columns], Any]
Test = Callable[[Any, Any], Any]

_ARTICLES = {"number": "a number", "category": "a category", "categories": "a list of categories"}
_ARTICLES |= {"boolean": "a boolean"}
_RESULT_TYPES = {"number": ("number",), "boolean": ("boolean",), "label": ("boolean", "number")}


@dataclass(frozen=True, slots=True)
class Expression:
    """A compiled expression; `type` is what it gives: "number" or "boolean"."""

    text: str
    names: frozenset[str]
    type: str
    _evaluate: Evaluate = field(repr=False, compare=False)
    _required: frozenset[str] = field(repr=False, compare=False)
    _conditional: tuple[tuple[Evaluate, frozenset[str]], ...] = field(repr=False, compare=False)
    """where the first holds, the others are required"""
    words: frozenset[str] = frozenset()
    """strings that it compares with"""
    counts: bool = False
    """it reads more than one row of a group"""

    def __call__(self, columns: Columns) -> np.ndarray:
        """Evaluate over columns of one shape (or shapes that broadcast): float64 for a number, bool for a boolean.

        A constant takes the shape of the first column. DataError when a column is absent or of another type.
        """
        if absent := sorted(name for name in self.names if name not in columns):
            raise DataError(f"{self.text!r} reads the column {absent[0]!r}, which is absent; give it")
        with np.errstate(all="ignore"):
            values = np.asarray(self._evaluate(columns))
        if self.names or not columns:
            return values
        return np.full(np.shape(next(iter(columns.values()))), values)

    def labels(self, columns: Columns) -> np.ndarray:
        """float32: 1 or 0 for a boolean, the value of a number, NaN where the label is missing.

        A label is missing where a number that the expression reads is NaN, unless the expression asks for that
        very absence by missing(name).
        """
        with np.errstate(over="ignore"):
            values = self(columns).astype(np.float32)
        missing = ~np.isfinite(values)
        for name in self._required:
            missing = missing | np.isnan(_number_column(name, columns))
        for condition, names in self._conditional:
            absent = [np.isnan(_number_column(name, columns)) for name in names]
            missing = missing | condition(columns) & np.logical_or.reduce(absent)
        return np.where(missing, np.float32(np.nan), values)


def compile_expression(
    text: str, types: Mapping[str, str], *, where: str, result_type: str, required: Collection[str] = ()
) -> Expression:
    """Parse, check and compile `text`.

    types: type of each known name, "owner.*" stands for every name of an owner. where: origin of the text for
    messages ("objectives.like"). result_type: "number", "boolean" or "label" (either of the two). required: names without
    whose values no comparison is known: the expression is true only where it is, whatever the missing values are; under
    `not` a comparison with a missing one counts as true. ConfigError names the mistake and its column.
    """
    compiler = _Compiler(
        text=text, types=types, where=where, grouped=result_type == "label", required=frozenset(required)
    )
    tree = compiler.parse()
    typed = compiler.typed(tree)
    if typed.type not in _RESULT_TYPES[result_type]:
        expected = " or ".join(_ARTICLES[one] for one in _RESULT_TYPES[result_type])
        raise compiler.refused(tree, f"this gives {_ARTICLES[typed.type]}; write one that gives {expected}")
    return Expression(
        text=text,
        names=frozenset(compiler.names | compiler.inner),
        type=typed.type,
        _evaluate=typed.evaluate,
        _required=compiler.numbers(compiler.names),
        _conditional=tuple((holds, compiler.numbers(names)) for holds, names in compiler.conditional),
        words=frozenset(compiler.words),
        counts=compiler.counts,
    )


def conjuncts(text: str) -> list[str]:
    """Return the parts of an expression that `and` joins at its top level, each an expression."""
    tree = ast.parse(text.strip(), mode="eval").body
    if not isinstance(tree, ast.BoolOp) or not isinstance(tree.op, ast.And):
        return [text]
    return [ast.unparse(part) for part in tree.values]


def compared_names(text: str) -> set[str]:
    """Return the column names that an expression reads other than by missing()."""
    return _plain_names(ast.parse(text.strip(), mode="eval"))


def suggestion(name: str, known: Iterable[str]) -> str:
    """Return the end of an error message about an unknown name: "did you mean ...?", or the known names."""
    names = sorted(known)
    if close := difflib.get_close_matches(name, names, n=1):
        return f"did you mean {close[0]!r}?"
    shown = ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")
    return f"known are {shown}" if names else "none is known"


@dataclass(frozen=True, slots=True)
class _Typed:
    type: str
    evaluate: Evaluate


@dataclass(slots=True, kw_only=True)
class _Compiler:
    text: str
    types: Mapping[str, str]
    where: str
    names: set[str] = field(default_factory=set)
    tested_missing: set[str] = field(default_factory=set)
    """names tested by missing(name)"""
    inner: set[str] = field(default_factory=set)
    """names read only where a condition holds"""
    conditional: list[tuple[Evaluate, set[str]]] = field(default_factory=list)
    words: set[str] = field(default_factory=set)
    grouped: bool = False
    """count() is allowed: rows have groups"""
    counts: bool = False
    required: frozenset[str] = frozenset()
    """names whose missing values leave a comparison unknown"""
    negated: bool = False
    """the operation stands under an odd number of `not`"""

    def numbers(self, names: set[str]) -> frozenset[str]:
        """Return the numeric names that are not tested by missing(name)."""
        return frozenset(name for name in names - self.tested_missing if self.types.get(name) == "number")

    def parse(self) -> ast.expr:
        if not isinstance(self.text, str):
            raise ConfigError(f"{self.where} is {self.text!r}, not an expression; write it as text, in quotes")
        self.text = self.text.strip()
        if not self.text:
            raise ConfigError(f"{self.where} is empty; write an expression such as rating >= 4")
        if len(self.text) > MAX_LENGTH:
            raise ConfigError(f"{self.where} is {len(self.text)} characters long; write at most {MAX_LENGTH}")
        tree = self._syntax()
        if _depth(tree) > MAX_DEPTH:
            raise self.refused(tree, f"more than {MAX_DEPTH} operations are nested; write it shorter")
        return tree

    def _syntax(self) -> ast.expr:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                return ast.parse(self.text, mode="eval").body
        except SyntaxError as error:
            raise self._failure(error.offset or 1, f"{error.msg}; write an expression such as rating >= 4") from None
        except (ValueError, RecursionError, MemoryError) as error:
            raise self._failure(1, f"it cannot be read ({type(error).__name__}); write it plainer") from None

    def refused(self, node: ast.AST, reason: str) -> ConfigError:
        num_bytes = getattr(node, "col_offset", 0)
        return self._failure(len(self.text.encode()[:num_bytes].decode(errors="ignore")) + 1, reason)

    def _failure(self, column: int, reason: str) -> ConfigError:
        return ConfigError(f"{self.where}: {self.text!r}, column {column}: {reason}")

    def typed(self, node: ast.expr) -> _Typed:
        match node:
            case ast.Constant(value=value):
                return self._constant(node, value)
            case ast.Name(id="true" | "false" as name):
                return self._constant(node, name == "true")
            case ast.Name(id=name):
                return self._name(node, name)
            case ast.Attribute(value=ast.Name(id=owner), attr=name):
                return self._name(node, f"{owner}.{name}")
            case ast.BoolOp(op=operator, values=values):
                return self._logic(np.logical_and if isinstance(operator, ast.And) else np.logical_or, values)
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                self.negated = not self.negated
                opposite = self._logic(np.logical_not, [operand])
                self.negated = not self.negated
                return opposite
            case ast.UnaryOp(op=ast.USub() | ast.UAdd() as operator, operand=operand):
                return self._arithmetic(_ARITHMETIC[type(operator)], [operand])
            case ast.BinOp(op=ast.Add() | ast.Sub() | ast.Mult() | ast.Div() as operator, left=left, right=right):
                return self._arithmetic(_ARITHMETIC[type(operator)], [left, right])
            case ast.Compare():
                return self._comparison(node)
            case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]):
                return self._call(node, name, arguments)
        raise self.refused(node, f"{_source(node)} is not part of the language; {_LANGUAGE}")

    def _constant(self, node: ast.expr, value: object) -> _Typed:
        if isinstance(value, bool):
            return _Typed("boolean", functools.partial(_value, np.asarray(value)))
        if isinstance(value, str):
            self.words.add(value)
            return _Typed("category", functools.partial(_value, np.asarray(value, dtype=object)))
        if isinstance(value, int | float) and abs(value) <= sys.float_info.max:
            return _Typed("number", functools.partial(_value, np.asarray(float(value))))
        hint = "for what is missing write missing(name)" if value is None else _LANGUAGE
        raise self.refused(node, f"{_source(node)} is not a usable constant; {hint}")

    def _name(self, node: ast.expr, name: str) -> _Typed:
        owner, dot, _ = name.partition(".")
        found = self.types.get(name) or (self.types.get(f"{owner}.*") if dot else None)
        if found is None:
            raise self.refused(node, f"unknown name {name!r}; {suggestion(name, self.types)}")
        if found not in _COLUMN:
            raise self.refused(node, f"{name!r} is of type {found!r}, which an expression cannot read")
        self.names.add(name)
        return _Typed(found, functools.partial(_COLUMN[found], name))

    def _operands(self, nodes: Sequence[ast.expr], operand_type: str) -> list[Evaluate]:
        return [self._operand(node, operand_type) for node in nodes]

    def _operand(self, node: ast.expr, operand_type: str) -> Evaluate:
        typed = self.typed(node)
        if typed.type != operand_type:
            raise self.refused(node, f"{_ARTICLES[operand_type]} is wanted here, this is {_ARTICLES[typed.type]}")
        return typed.evaluate

    def _logic(self, operation: Callable[..., Any], nodes: Sequence[ast.expr]) -> _Typed:
        return _Typed("boolean", functools.partial(_logic, operation, self._operands(nodes, "boolean")))

    def _arithmetic(self, operation: Callable[..., Any], nodes: Sequence[ast.expr]) -> _Typed:
        return _Typed("number", functools.partial(_arithmetic, operation, self._operands(nodes, "number")))

    def _comparison(self, node: ast.Compare) -> _Typed:
        nodes = [node.left, *node.comparators]
        sides = [self._side(one) for one in nodes]
        tests = [
            self._test(operator, nodes[place + 1], sides[place].type, sides[place + 1].type)
            for place, operator in enumerate(node.ops)
        ]
        return self._certain(node, functools.partial(_chain, tests, [side.evaluate for side in sides]))

    def _certain(self, node: ast.expr, test: Evaluate) -> _Typed:
        """Make a comparison with a missing required name false, or true under `not`, so that the whole is not true."""
        absent = [
            functools.partial(_apply, _MISSING[self.types[name]], [functools.partial(_COLUMN[self.types[name]], name)])
            for name in sorted(_plain_names(node) & self.required)
            if self.types.get(name) in _MISSING
        ]
        if not absent:
            return _Typed("boolean", test)
        return _Typed("boolean", functools.partial(_unless_missing, test, absent, np.asarray(self.negated)))

    def _side(self, node: ast.expr) -> _Typed:
        """One side of a comparison; a list ('a', 'b') has the type "list of category"."""
        if not isinstance(node, ast.Tuple | ast.List) or not node.elts:
            return self.typed(node)
        first = self.typed(node.elts[0])
        members = [first.evaluate, *self._operands(node.elts[1:], first.type)]
        return _Typed(f"list of {first.type}", functools.partial(_members, members))

    def _test(self, operator: ast.cmpop, node: ast.expr, left: str, right: str) -> Test:
        if "categories" in (left, right):
            raise self.refused(node, "a list of categories cannot be compared; write contains(name, 'x')")
        if isinstance(operator, ast.In | ast.NotIn):
            if left not in _EQUAL or right != f"list of {left}":
                raise self.refused(node, f"a list such as (1, 2) or ('a', 'b') of the type {left!r} is wanted here")
            inside = isinstance(operator, ast.In)
            return functools.partial(_within, _EQUAL[left]) if inside else functools.partial(_outside, _DIFFER[left])
        if left != right or left not in _EQUAL:
            raise self.refused(node, f"a {left} cannot be compared with a {right}; compare two of one type")
        if isinstance(operator, ast.Eq | ast.NotEq):
            return _EQUAL[left] if isinstance(operator, ast.Eq) else _DIFFER[left]
        if left != "number" or type(operator) not in _ORDER:
            raise self.refused(node, f"two of type {left} can be compared by ==, != and in only")
        return _ORDER[type(operator)]

    def _call(self, node: ast.expr, name: str, arguments: Sequence[ast.expr]) -> _Typed:
        if name not in _NUM_ARGUMENTS:
            raise self.refused(node, f"unknown function {name!r}; {suggestion(name, _NUM_ARGUMENTS)}")
        if len(arguments) != _NUM_ARGUMENTS[name]:
            raise self.refused(node, f"{name} takes {_NUM_ARGUMENTS[name]} argument(s), here are {len(arguments)}")
        if name == "missing":
            return self._missing(arguments[0])
        if name == "where":
            return self._where(arguments[0], arguments[1])
        if name == "count":
            return self._count(node, arguments[0])
        if name == "contains":
            operands = [self._operand(arguments[0], "categories"), self._operand(arguments[1], "category")]
            return self._certain(node, functools.partial(_apply, _contains, operands))
        return self._arithmetic(_FUNCTIONS[name], arguments)

    def _where(self, condition: ast.expr, value: ast.expr) -> _Typed:
        holds, outer = self._operand(condition, "boolean"), self.names
        self.names = set()
        number = self._operand(value, "number")
        if self.names:
            self.conditional.append((holds, self.names))
        self.inner |= self.names
        self.names = outer
        return _Typed("number", functools.partial(_apply, _only, [holds, number]))

    def _count(self, node: ast.expr, condition: ast.expr) -> _Typed:
        if not self.grouped:
            raise self.refused(node, "only objectives count events; compare columns of one row here")
        self.counts = True
        return _Typed("number", functools.partial(_counted, self._operand(condition, "boolean")))

    def _missing(self, node: ast.expr) -> _Typed:
        if isinstance(node, ast.Name):
            self.tested_missing.add(node.id)
        typed = self.typed(node)
        if typed.type not in _MISSING:
            raise self.refused(node, f"{_ARTICLES[typed.type]} is never missing; ask for a column")
        return _Typed("boolean", functools.partial(_apply, _MISSING[typed.type], [typed.evaluate]))


def _source(node: ast.expr) -> str:
    text = ast.unparse(node)
    return text if len(text) <= 40 else text[:37] + "..."


def _depth(tree: ast.expr) -> int:
    deepest, stack = 0, [(tree, 1)]
    while stack:
        node, depth = stack.pop()
        deepest = max(deepest, depth)
        stack.extend((child, depth + 1) for child in ast.iter_child_nodes(node) if isinstance(child, ast.expr))
    return deepest


def _plain_names(node: ast.AST) -> set[str]:
    """Return the plain names of an expression, without what it asks for by missing()."""
    match node:
        case ast.Call(func=ast.Name(id="missing")):
            return set()
        case ast.Name(id=name):
            return {name}
        case ast.Attribute():
            return set()
    return set[str]().union(*map(_plain_names, ast.iter_child_nodes(node)))


def _unless_missing(test: Evaluate, absent: Sequence[Evaluate], otherwise: np.ndarray, columns: Columns) -> Any:
    missing = functools.reduce(np.logical_or, _members(absent, columns))
    return np.where(missing, otherwise, test(columns))


def _value(value: np.ndarray, columns: Columns) -> np.ndarray:
    return value


def _members(operands: Sequence[Evaluate], columns: Columns) -> list[Any]:
    return [operand(columns) for operand in operands]


def _apply(operation: Callable[..., Any], operands: list[Evaluate], columns: Columns) -> Any:
    return operation(*_members(operands, columns))


def _logic(operation: Callable[..., Any], operands: list[Evaluate], columns: Columns) -> Any:
    values = _members(operands, columns)
    return functools.reduce(operation, values) if len(values) > 1 else operation(values[0])


def _arithmetic(operation: Callable[..., Any], operands: list[Evaluate], columns: Columns) -> np.ndarray:
    values = _apply(operation, operands, columns)
    return np.where(np.isfinite(values), values, np.nan)


def _chain(tests: list[Test], operands: list[Evaluate], columns: Columns) -> Any:
    values = _members(operands, columns)
    pairs = zip(tests, values[:-1], values[1:], strict=True)
    return functools.reduce(np.logical_and, [test(left, right) for test, left, right in pairs])


def _within(equal: Test, value: Any, members: list[Any]) -> Any:
    return functools.reduce(np.logical_or, [equal(value, member) for member in members])


def _outside(differ: Test, value: Any, members: list[Any]) -> Any:
    return functools.reduce(np.logical_and, [differ(value, member) for member in members])


def _number_column(name: str, columns: Columns) -> np.ndarray:
    try:
        return np.asarray(columns[name], dtype=np.float64)
    except (TypeError, ValueError):
        raise DataError(f"the column {name!r} holds what is not a number; mend it or call it a category") from None


def _object_column(name: str, columns: Columns) -> np.ndarray:
    return np.asarray(columns[name], dtype=object)


def _boolean_column(name: str, columns: Columns) -> np.ndarray:
    return np.asarray(np.equal(columns[name], True), dtype=bool)


def _present(values: Any) -> Any:
    return np.not_equal(values, _NOTHING)


def _equal_categories(left: Any, right: Any) -> Any:
    return np.equal(left, right) & _present(left) & _present(right)


def _differ_categories(left: Any, right: Any) -> Any:
    return np.not_equal(left, right) & _present(left) & _present(right)


def _differ_numbers(left: Any, right: Any) -> Any:
    return np.not_equal(left, right) & ~np.isnan(left) & ~np.isnan(right)


def _only(condition: Any, values: Any) -> Any:
    return np.where(condition, values, 0.0)


def _counted(condition: Evaluate, columns: Columns) -> Any:
    reached = np.asarray(condition(columns), dtype=np.float64)
    if GROUPS not in columns:
        return reached
    groups = columns[GROUPS]
    return np.bincount(groups, np.broadcast_to(reached, groups.shape))[groups]


def _contains(rows: np.ndarray, values: np.ndarray) -> np.ndarray:
    return np.asarray(np.frompyfunc(lambda row, value: bool(row) and value in row, 2, 1)(rows, values), dtype=bool)


def _absent_category(values: Any) -> Any:
    return np.equal(values, _NOTHING)


def _absent_categories(rows: np.ndarray) -> np.ndarray:
    return np.asarray(np.frompyfunc(lambda row: not row, 1, 1)(rows), dtype=bool)


_NOTHING = np.asarray(None, dtype=object)
_LANGUAGE = "use numbers, 'strings', names, + - * /, comparisons, and, or, not, in and the functions"
_COLUMN = {"number": _number_column, "category": _object_column, "categories": _object_column}
_COLUMN |= {"boolean": _boolean_column}
_EQUAL: dict[str, Test] = {"number": np.equal, "category": _equal_categories, "boolean": np.equal}
_DIFFER: dict[str, Test] = {"number": _differ_numbers, "category": _differ_categories, "boolean": np.not_equal}
_MISSING: dict[str, Any] = {"number": np.isnan, "category": _absent_category, "categories": _absent_categories}
_ORDER: dict[type, Test] = {ast.Lt: np.less, ast.LtE: np.less_equal, ast.Gt: np.greater, ast.GtE: np.greater_equal}
_ARITHMETIC: dict[type, Any] = {ast.Add: np.add, ast.Sub: np.subtract, ast.Mult: np.multiply, ast.Div: np.divide}
_ARITHMETIC |= {ast.USub: np.negative, ast.UAdd: np.positive}
_FUNCTIONS: dict[str, np.ufunc] = {
    "log1p": np.log1p,
    "sqrt": np.sqrt,
    "abs": np.abs,
    "min": np.minimum,
    "max": np.maximum,
}
_NUM_ARGUMENTS = {
    "contains": 2,
    "missing": 1,
    "where": 2,
    "count": 1,
    **{name: function.nin for name, function in _FUNCTIONS.items()},
}
