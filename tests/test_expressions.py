"""The compiled expressions against a row-by-row interpreter, known answers and everything a person can get wrong."""

import ast
import math
import operator
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.errors import ConfigError, DataError
from recsys.expressions import GROUPS, MAX_LENGTH, Expression, compile_expression, suggestion

TYPES = {"x": "number", "y": "number", "genre": "category", "genres": "categories", "flag": "boolean", "title": "text"}
NAN = math.nan


def objects(values):
    column = np.empty(len(values), dtype=object)
    column[:] = values
    return column


ROWS = [
    {"x": 4.0, "y": 0.0, "genre": "a", "genres": ("Horror",), "flag": True},
    {"x": None, "y": 1.0, "genre": None, "genres": (), "flag": False},
    {"x": -2.5, "y": None, "genre": "b", "genres": ("War", "Horror"), "flag": True},
    {"x": 0.0, "y": -1.0, "genre": "b", "genres": ("War",), "flag": False},
    {"x": 1e300, "y": 1e300, "genre": "Horror", "genres": ("a", "b"), "flag": True},
]
COLUMNS = {
    "x": np.array([row["x"] for row in ROWS], dtype=float),
    "y": np.array([row["y"] for row in ROWS], dtype=float),
    "genre": objects([row["genre"] for row in ROWS]),
    "genres": objects([row["genres"] for row in ROWS]),
    "flag": np.array([row["flag"] for row in ROWS]),
}


def compiled(text: str, wanted: str = "label") -> Expression:
    return compile_expression(text, TYPES, where="objectives.like", result_type=wanted)


OPERATORS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}
COMPARISONS = {ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt, ast.GtE: operator.ge}
COMPARISONS |= {ast.Eq: operator.eq, ast.NotEq: operator.ne}
FUNCTIONS = {"log1p": np.log1p, "sqrt": math.sqrt, "abs": abs, "min": min, "max": max}


def finite(function, *values):
    """One arithmetic step on one row, None for what is missing."""
    if None in values:
        return None
    try:
        with np.errstate(all="ignore"):
            result = float(function(*values))
    except (ZeroDivisionError, ValueError, OverflowError):
        return None
    return result if math.isfinite(result) else None


def compare(operation, left, right):
    if isinstance(operation, ast.In):
        return any(compare(ast.Eq(), left, one) for one in right)
    if isinstance(operation, ast.NotIn):
        return all(compare(ast.NotEq(), left, one) for one in right)
    return left is not None and right is not None and COMPARISONS[type(operation)](left, right)


def interpret(node, row):
    """The slow exact twin: one row, plain Python."""
    match node:
        case ast.Constant(value=value):
            return value
        case ast.Name(id=name):
            return {"true": True, "false": False}[name] if name in ("true", "false") else row[name]
        case ast.Tuple(elts=elements):
            return [interpret(one, row) for one in elements]
        case ast.BoolOp(op=operation, values=values):
            return (all if isinstance(operation, ast.And) else any)([interpret(one, row) for one in values])
        case ast.UnaryOp(op=operation, operand=operand):
            value = interpret(operand, row)
            return not value if isinstance(operation, ast.Not) else finite(operator.neg, value)
        case ast.BinOp(left=left, op=operation, right=right):
            return finite(OPERATORS[type(operation)], interpret(left, row), interpret(right, row))
        case ast.Compare(left=left, ops=operations, comparators=others):
            values = [interpret(one, row) for one in [left, *others]]
            return all(compare(one, values[at], values[at + 1]) for at, one in enumerate(operations))
        case ast.Call(func=ast.Name(id="missing"), args=[argument]):
            return interpret(argument, row) in (None, ())
        case ast.Call(func=ast.Name(id="contains"), args=[rows, value]):
            return interpret(value, row) in interpret(rows, row)
        case ast.Call(func=ast.Name(id=name), args=arguments):
            return finite(FUNCTIONS[name], *[interpret(one, row) for one in arguments])
    raise AssertionError(ast.dump(node))


def combined(form, *parts):
    return st.builds(lambda *texts: form.format(*texts), *parts)


def one_of_forms(*forms):
    return st.one_of(*[combined(*form) for form in forms])


CATEGORY = st.sampled_from(["genre", "'a'", "'b'", "'Horror'"])
BOOLEAN_LEAF = st.sampled_from(["true", "False", "flag", "missing(x)", "missing(genre)", "missing(genres)"])
NUMBER = st.recursive(
    st.sampled_from(["x", "y", "0", "4", "2.5", "1e300"]),
    lambda part: one_of_forms(
        *[(f"({{}} {sign} {{}})", part, part) for sign in "+-*/"],
        *[(f"{name}({{}})", part) for name in ("log1p", "sqrt", "abs", "-")],
        *[(f"{name}({{}}, {{}})", part, part) for name in ("min", "max")],
    ),
    max_leaves=5,
)
COMPARISON = st.sampled_from(["<", "<=", ">", ">=", "==", "!="])
TEST = one_of_forms(
    ("{} {} {}", NUMBER, COMPARISON, NUMBER),
    ("{} {} {} {} {}", NUMBER, COMPARISON, NUMBER, COMPARISON, NUMBER),
    ("{} {} {}", CATEGORY, st.sampled_from(["==", "!="]), CATEGORY),
    ("{} {} ({}, {})", CATEGORY, st.sampled_from(["in", "not in"]), CATEGORY, CATEGORY),
    ("{} {} ({},)", NUMBER, st.sampled_from(["in", "not in"]), NUMBER),
    ("contains(genres, {})", CATEGORY),
)
BOOLEAN = st.recursive(
    BOOLEAN_LEAF | TEST,
    lambda part: one_of_forms(
        ("({} and {})", part, part), ("({} or {})", part, part), ("(not {})", part), ("(({}) == ({}))", part, part)
    ),
    max_leaves=5,
)


def test_events_of_a_group_are_counted_together():
    groups = COLUMNS | {GROUPS: np.array([0, 1, 1, 1, 0])}
    assert compiled("count(genre == 'b')").labels(groups).tolist() == [0, 2, 2, 2, 0]
    assert compiled("count(genre == 'b') >= 2").labels(groups).tolist() == [0, 1, 1, 1, 0]
    assert compiled("flag and count(true) == 2").labels(groups).tolist() == [1, 0, 0, 0, 1]
    assert compiled("count(true)").counts
    assert not compiled("where(true, 1)").counts
    assert compiled("genre in ('b', 'x') and genre != 'c'").words == {"b", "x", "c"}
    assert compiled("where(genre == 'a', x)").names == {"genre", "x"}
    with pytest.raises(ConfigError, match="only objectives count events"):
        compiled("count(flag)", wanted="number")


@settings(max_examples=300, deadline=None)
@given(BOOLEAN | NUMBER)
def test_equals_the_row_by_row_interpreter(text):
    tree = ast.parse(text, mode="eval").body
    got = np.broadcast_to(compiled(text)(COLUMNS), len(ROWS))
    want = [interpret(tree, row) for row in ROWS]
    np.testing.assert_array_equal(got.astype(float), np.array(want, dtype=float))


@settings(max_examples=100, deadline=None)
@given(BOOLEAN | NUMBER)
def test_labels_are_missing_where_a_number_they_read_is(text):
    expression = compiled(text)
    labels = expression.labels(COLUMNS)
    assert labels.dtype == np.float32
    assert labels.shape == (len(ROWS),)
    for name in {"x", "y"} & expression.names:
        if f"missing({name})" not in text:
            assert np.isnan(labels[np.isnan(COLUMNS[name])]).all()
    if expression.type == "boolean":
        assert set(labels[~np.isnan(labels)]) <= {0.0, 1.0}


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("x >= 4", [1, NAN, 0, 0, 1]),
        ("not missing(x) and x >= 4", [1, 0, 0, 0, 1]),
        ("not x == 4", [0, NAN, 1, 1, 1]),
        ("1", [1, 1, 1, 1, 1]),
        ("true", [1, 1, 1, 1, 1]),
        ("x / y", [NAN, NAN, NAN, 0, 1]),
        ("x * x", [16, NAN, 6.25, 0, NAN]),
        ("x", [4, NAN, -2.5, 0, NAN]),
        ("genre == 'a'", [1, 0, 0, 0, 0]),
        ("where(genre == 'b', y)", [0, 0, NAN, -1, 0]),
        ("where(genre == 'b', y) < 0", [0, 0, NAN, 1, 0]),
        ("where(x > 1, y) > 1", [0, NAN, 0, 0, 1]),
        ("where(genre == 'b', 2) + x", [4, NAN, -0.5, 2, NAN]),
        ("where(flag, where(genre == 'a', y)) == 0", [1, 1, 1, 1, 1]),
        ("count(genre == 'b')", [0, 0, 1, 1, 0]),
        ("count(genre == 'b') >= 2", [0, 0, 0, 0, 0]),
    ],
)
def test_labels_known_answers(text, want):
    np.testing.assert_array_equal(compiled(text).labels(COLUMNS), np.array(want, dtype=np.float32))


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("x != 4", [False, False, True, True, True]),
        ("genre != 'a'", [False, False, True, True, True]),
        ("genre not in ('a',)", [False, False, True, True, True]),
        ("contains(genres, 'Horror') and not flag", [False] * 5),
        ("contains(genres, genre)", [False, False, False, False, False]),
        ("-3 < x <= 0", [False, False, True, True, False]),
        ("x in (4, -2.5)", [True, False, True, False, False]),
    ],
)
def test_conditions_known_answers(text, want):
    got = compiled(text, "boolean")(COLUMNS)
    assert got.dtype == bool
    assert got.tolist() == want


def test_any_shape_and_names():
    expression = compile_expression(
        "watch + w * like", {"watch": "number", "like": "number", "w": "number"}, where="value", result_type="number"
    )
    watch, like = np.ones((2, 3), dtype=np.float32), np.full((2, 3), 2, dtype=np.float32)
    np.testing.assert_array_equal(
        expression({"watch": watch, "like": like, "w": np.asarray(0.5)}), np.full((2, 3), 2.0)
    )
    assert expression.names == {"watch", "like", "w"}
    assert expression.type == "number"


def test_pickles_and_compares():
    expression = compiled("x >= 4 and contains(genres, 'War')")
    again = pickle.loads(pickle.dumps(expression))
    assert again == expression
    np.testing.assert_array_equal(again(COLUMNS), expression(COLUMNS))


def test_a_number_column_of_objects_may_hold_none():
    column = objects([1, None, 5.0])
    np.testing.assert_array_equal(compiled("x > 2").labels({"x": column}), np.array([0, NAN, 1], dtype=np.float32))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ratin > x", "column 1: unknown name 'ratin'; known are flag"),
        ("x > genr", "column 5: unknown name 'genr'; did you mean 'genre'?"),
        ("genre == 'é' and xx", "column 18: unknown name"),
        ("x >=", "invalid syntax"),
        ("x + flag > 1", "column 5: a number is wanted here, this is a boolean"),
        ("not x", "column 5: a boolean is wanted here, this is a number"),
        ("genres == 'a'", "write contains"),
        ("'a' in genres", "write contains"),
        ("contains(genre, 'a')", "a list of categories is wanted here, this is a category"),
        ("x == 'a'", "a number cannot be compared with a category"),
        ("genre < 'a'", "by ==, != and in only"),
        ("x in ('a', 'b')", "of the type 'number' is wanted"),
        ("x in ('a', 1)", "a category is wanted here, this is a number"),
        ("x in ()", "not part of the language"),
        ("x in 4", "a list such as"),
        ("title == 'x'", "of type 'text', which an expression cannot read"),
        ("contans(genres, 'a')", "did you mean 'contains'"),
        ("log1p(x, y) > 1", "takes 1 argument"),
        ("max(x, key=y) > 1", "not part of the language"),
        ("missing(flag)", "a boolean is never missing"),
        ("x > None", "write missing(name)"),
        ("x > 1e999", "not a usable constant"),
        ("x > 1j", "not a usable constant"),
        ("x ** 2 > 1", "x ** 2 is not part of the language"),
        ("x.real > 1", "unknown name 'x.real'"),
        ("__import__('os')", "unknown function '__import__'"),
        ("(lambda: true)()", "not part of the language"),
        ("[y for y in (1, 2)]", "not part of the language"),
        ("genre == f'{x}'", "not part of the language"),
        ("(x := 3) > 2", "not part of the language"),
        ("x if flag else y", "not part of the language"),
        ("x is 3", "by ==, != and in only"),
        (r"genre == '\d'", "invalid escape sequence"),
        ("", "is empty"),
        ("x", "this gives a number; write one that gives a boolean"),
        ("x" * (MAX_LENGTH + 1), f"write at most {MAX_LENGTH}"),
        ("+".join(["1"] * 200) + " > 1", "operations are nested"),
        ("-" * 400 + "1", "objectives.like"),
        ("(" * 300, "objectives.like"),
        ("x\0", "objectives.like"),
        ("'\ud800' == genre", "objectives.like"),
        (4, "write it as text"),
        (None, "write it as text"),
    ],
)
def test_refuses_in_one_sentence(text, message):
    with pytest.raises(ConfigError) as caught:
        compiled(text, "boolean")
    assert message in str(caught.value)
    assert str(caught.value).startswith("objectives.like")
    assert "\n" not in str(caught.value)


def test_wanted_decides_which_type_is_taken():
    assert compiled("x", "number").type == "number"
    for text, wanted in [("flag", "number"), ("genre", "label"), ("genres", "boolean")]:
        with pytest.raises(ConfigError, match="write one that gives"):
            compiled(text, wanted)


def test_an_absent_or_unreadable_column_is_named():
    with pytest.raises(DataError, match="'x', which is absent"):
        compiled("x > 1")({"y": np.ones(2)})
    with pytest.raises(DataError, match="'x' holds what is not a number"):
        compiled("x > 1")({"x": objects(["a", "b"])})


TOKENS = [
    "x",
    "genre",
    "genres",
    "'a'",
    "1",
    "(",
    ")",
    ",",
    "+",
    "-",
    "*",
    "/",
    "**",
    "<",
    "==",
    " and ",
    " or ",
    " not ",
]
TOKENS += [
    " in ",
    "contains",
    "missing",
    "min",
    "[",
    "]",
    ".",
    ":",
    "=",
    "lambda ",
    "if ",
    "\\",
    "'",
    "\n",
    "#",
    "é",
    "{",
]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(TOKENS), max_size=40).map("".join) | st.text(max_size=60))
def test_no_text_does_anything_but_compile_or_be_refused(text):
    try:
        expression = compiled(text)
    except ConfigError:
        return
    assert expression(COLUMNS).shape == (len(ROWS),)


def test_nested_chains_are_evaluated_once_each():
    text = "flag"
    for _ in range(22):
        text = f"(flag == {text} == flag)"
    assert compiled(text)(COLUMNS).shape == (len(ROWS),)


def test_suggestion_lists_at_most_twenty():
    assert suggestion("zzz", []) == "none is known"
    assert suggestion("zzz", [f"n{number:02}" for number in range(30)]).endswith("n19, ...")
