"""Which sources offered an item, the strongest first."""

import math

import numpy as np

from recsys.policy.explanation.slates import offering_sources

NAN = math.nan
SOURCES = ("towers", "linear", "popular")
# C 4, S 3
SCORES = np.array([[0.9, 10, NAN], [0.8, 30, 0.1], [NAN, 20, 0.2], [NAN, NAN, NAN]], dtype=np.float32)


def test_the_source_that_ranks_an_item_highest_comes_first():
    want = [("towers", "linear"), ("linear", "towers", "popular"), ("popular", "linear"), ()]
    assert offering_sources(SCORES, np.arange(4), SOURCES) == want


def test_what_no_source_offered_came_by_a_rule():
    assert offering_sources(SCORES, np.array([-1, 0]), SOURCES) == [("rules",), ("towers", "linear")]


def test_equal_ranks_keep_the_order_of_the_sources():
    scores = np.array([[1, 5], [1, 5]], dtype=np.float32)
    assert offering_sources(scores, np.array([1, 0]), ("b", "a")) == [("b", "a"), ("b", "a")]


def test_no_candidates_and_no_sources():
    assert offering_sources(SCORES, np.array([], dtype=np.int64), SOURCES) == []
    assert offering_sources(np.zeros((2, 0), dtype=np.float32), np.array([0]), ()) == [()]
