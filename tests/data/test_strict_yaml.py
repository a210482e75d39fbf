"""A key that stands twice is refused, with its place; all else is what YAML says."""

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from recsys import strict_yaml

DOCUMENTS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=9,
)


@given(DOCUMENTS)
def test_what_was_written_is_read(document):
    assert strict_yaml.load(yaml.safe_dump(document)) == document


@pytest.mark.parametrize(
    ("text", "key", "line", "column"),
    [
        ("a: 1\nb: 2\na: 1\n", "'a'", 3, 1),
        ("rules:\n  - {name: x, must: 'p < 1', must: 'p > 0'}\n", "'must'", 2, 30),
        ("a: {b: {1: x, 1: y}}\n", "1", 1, 15),
    ],
)
def test_a_key_that_stands_twice_is_refused(text, key, line, column):
    with pytest.raises(yaml.MarkedYAMLError, match=f"the key {key} stands there a second time") as refused:
        strict_yaml.load(text)
    assert (refused.value.problem_mark.line + 1, refused.value.problem_mark.column + 1) == (line, column)


def test_what_is_merged_may_be_overruled():
    assert strict_yaml.load("base: &base {a: 1, b: 2}\nmine: {<<: *base, a: 3}\n")["mine"] == {"a": 3, "b": 2}


def test_a_key_that_is_no_key_is_refused_as_ever():
    with pytest.raises(yaml.MarkedYAMLError, match="unhashable"):
        strict_yaml.load("{[1]: 2, [1]: 3}")
