"""Explanations of one slate: known answers."""

import math

import numpy as np

from recsys.contracts import SlateItem
from recsys.policy.explain import Evidence, explain, strongest_sources

NAN = math.nan
SOURCES = ("towers", "linear", "popular")
# C 4, S 3
SCORES = np.array([[0.9, 10, NAN], [0.8, 30, 0.1], [NAN, 20, 0.2], [NAN, NAN, NAN]], dtype=np.float32)


def test_the_source_that_ranks_an_item_highest_comes_first():
    want = [("towers", "linear"), ("linear", "towers", "popular"), ("popular", "linear"), ()]
    assert strongest_sources(SCORES, np.arange(4), SOURCES) == want


def test_equal_ranks_keep_the_order_of_the_sources():
    scores = np.array([[1, 5], [1, 5]], dtype=np.float32)
    assert strongest_sources(scores, np.array([1, 0]), ("b", "a")) == [("b", "a"), ("b", "a")]


def test_no_candidates_and_no_sources():
    assert strongest_sources(SCORES, np.array([], dtype=np.int64), SOURCES) == []
    assert strongest_sources(np.zeros((2, 0), dtype=np.float32), np.array([0]), ()) == [()]


def test_explains_each_place():
    evidence = Evidence(
        items=["a", "b", "c"],
        utility=np.array([NAN, 2.0, NAN]),
        candidates=np.array([-1, 1, 2]),
        source_scores=SCORES,
        probabilities=np.array([[0, 0], [0.5, 0.25], [1, NAN], [0, 0]], dtype=np.float32),
        rules={"pin": np.array([True, False, False]), "boost": np.array([True, True, False])},
    )
    assert explain(evidence, SOURCES, ("watch", "like")) == (
        SlateItem(item="a", utility=0.0, sources=("rules",), probabilities={}, rules=("pin", "boost")),
        SlateItem(
            item="b",
            utility=2.0,
            sources=("linear", "towers", "popular"),
            probabilities={"watch": 0.5, "like": 0.25},
            rules=("boost",),
        ),
        SlateItem(item="c", utility=0.0, sources=("popular", "linear"), probabilities={"watch": 1.0}),
    )
