"""Item text as vectors: unit rows, likeness, and nothing where there is nothing to read."""

import numpy as np
import pytest

from recsys.content.text import TextVectors
from recsys.errors import ConfigError

TEXTS = ["space rocket orbit", "rocket orbit comet", "bread oven spice", "oven bread recipe", "", "space comet"]


def vectors(texts=TEXTS, **knobs):
    return TextVectors(**{"dim": 3, "min_documents": 1, "seed": 0, **knobs}).fit({"title": texts})({"title": texts})


def test_rows_are_unit_vectors_and_an_empty_text_is_zero():
    found = vectors()
    assert (found.shape, found.dtype) == ((6, 3), np.float32)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), [1, 1, 1, 1, 0, 1], atol=1e-6)


def test_likeness_follows_the_words():
    likeness = (found := vectors(dim=2)) @ found.T
    assert likeness[0, 1] > 0.9 > 0.2 > likeness[0, 2]
    assert likeness[2, 3] > 0.9
    np.testing.assert_allclose(likeness[[0, 1, 5]][:, [2, 3]], 0, atol=1e-5)


def test_the_same_texts_and_seed_give_the_same_vectors():
    np.testing.assert_array_equal(vectors(), vectors())


def test_accents_and_case_do_not_matter():
    np.testing.assert_allclose(*vectors(["Crème brûlée", "creme BRULEE", "other words"], dim=2)[:2], atol=1e-6)


@pytest.mark.parametrize("texts", [["", ""], ["a b", "c"], ["alone", "words"], ["same", "same"]])
def test_too_few_words_give_one_zero(texts):
    assert vectors(texts, min_documents=2).tolist() == [[0.0], [0.0]]


def test_fewer_words_than_dimensions_give_fewer_dimensions():
    assert vectors(dim=64).shape == (6, 5)


@pytest.mark.parametrize(("key", "value"), [("dim", 0), ("dim", 4_097), ("min_documents", 0)])
def test_a_knob_out_of_range_is_refused_by_name(key, value):
    with pytest.raises(ConfigError, match=rf"content\.{key} is {value}"):
        vectors(**{key: value})
