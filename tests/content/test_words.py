"""Word weights that were fitted make the vectors that the library which fitted them makes, in every process.

Shapes: N texts, D dim.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.feature_extraction.text import TfidfVectorizer

from recsys.content.text import TextVectors
from recsys.content.text_encoder import join_columns
from recsys.content.words import WordVectors, tokenize

TITLES = ["Crème brûlée", "the oven, the bread", None, "Bread & oven 2000", "rocket-orbit", "orbit"]
NOTES = ["sweet", None, "nothing else", "", "ROCKET", "comet of ice"]
COLUMNS = {"title": TITLES, "note": NOTES}


@pytest.fixture(scope="module")
def words() -> WordVectors:
    return TextVectors(dim=3, min_documents=1, seed=0).fit(COLUMNS)


def test_the_weights_are_those_of_the_textbook_library(words: WordVectors) -> None:
    library = TfidfVectorizer(min_df=1, sublinear_tf=True, strip_accents="unicode")
    texts = join_columns([TITLES, NOTES])
    wanted = library.fit_transform(texts)
    assert list(words.words) == library.get_feature_names_out().tolist()
    reduced = wanted @ words.components.T
    lengths = np.linalg.norm(reduced, axis=1, keepdims=True)
    np.testing.assert_allclose(words(COLUMNS), reduced / np.where(lengths > 1e-9, lengths, 1), rtol=0, atol=1e-6)


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=30))
def test_a_text_is_taken_apart_as_the_textbook_library_does(text: str) -> None:
    assert tokenize(text) == TfidfVectorizer(strip_accents="unicode").build_analyzer()(text)


def test_a_text_has_the_same_vector_alone_and_after_it_was_stored(words: WordVectors) -> None:
    document, arrays = words.to_documents()
    again = WordVectors.from_documents(document, arrays)
    whole = words(COLUMNS)
    for row in range(len(TITLES)):
        alone = again({"title": TITLES[row : row + 1], "note": NOTES[row : row + 1]})
        np.testing.assert_array_equal(alone[0], whole[row])


def test_words_that_were_never_met_say_nothing(words: WordVectors) -> None:
    assert not words({"title": ["zzz", None], "note": [None, None]}).any()


def test_what_is_missing_is_left_out_of_the_text() -> None:
    assert join_columns([["a", None, None], ["b", "c", None]]) == ["a b", "c", ""]
