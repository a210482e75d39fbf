"""A bundle is whole or it is refused, and writing one never hurts the one that was there."""

import json
import shutil

import numpy as np
import pytest
import yaml

from recsys.bundle import MANIFEST, Bundle, replace_folder, write_bundle
from recsys.errors import BundleError

DOCUMENT = {"name": "ä", "values": [1, 2.5, None]}
ARRAYS = {"vectors": np.arange(6, dtype=np.float32).reshape(2, 3), "rows": np.array([3, -1])}
FILES = ("spec.json", "policy.yaml", "item_vectors.safetensors", "parts/user_tower.onnx")


def write(path, document=DOCUMENT):
    with write_bundle(path, "0123456789abcdef") as draft:
        assert (draft.path != path, draft.fingerprint) == (True, "draft")
        draft.write_document("spec.json", document)
        draft.write_document("policy.yaml", document)
        draft.write_arrays("item_vectors.safetensors", ARRAYS)
        (draft.path / "parts").mkdir()
        (draft.path / "parts" / "user_tower.onnx").write_bytes(b"\x00graph")
    return path


@pytest.fixture
def bundle(tmp_path):
    return write(tmp_path / "bundle")


def manifest_of(path):
    return json.loads((path / MANIFEST).read_text(encoding="utf-8"))


def test_what_was_written_is_read_back(bundle):
    opened = Bundle.open(str(bundle))
    assert opened.document("spec.json") == opened.document("policy.yaml") == DOCUMENT
    for name, array in opened.arrays("item_vectors.safetensors").items():
        np.testing.assert_array_equal(array, ARRAYS[name], strict=True)
    assert opened.file("parts/user_tower.onnx").read_bytes() == b"\x00graph"
    assert opened.spec_fingerprint == "0123456789abcdef"
    assert set(manifest_of(bundle)["files"]) == set(FILES)


def test_the_fingerprint_depends_on_the_content_and_on_nothing_else(tmp_path):
    one, same = (Bundle.open(write(tmp_path / name)).fingerprint for name in ("one", "same"))
    other = Bundle.open(write(tmp_path / "other", {"name": "b"})).fingerprint
    assert one == same != other
    assert len(one) == 16
    assert manifest_of(tmp_path / "one")["fingerprint"] == one


@pytest.mark.parametrize("name", [*FILES, MANIFEST])
def test_every_single_changed_byte_is_refused_by_the_name_of_its_file(bundle, name):
    good = (bundle / name).read_bytes()
    for place in range(len(good)):
        (bundle / name).write_bytes(good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :])
        with pytest.raises(BundleError) as refused:
            Bundle.open(bundle)
        assert name == MANIFEST or str(bundle / name) in str(refused.value), place
        assert name != MANIFEST or str(bundle) in str(refused.value), place
    (bundle / name).write_bytes(good)
    Bundle.open(bundle)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("change", ["shorter", "longer", "empty"])
def test_another_length_is_refused(bundle, name, change):
    good = (bundle / name).read_bytes()
    (bundle / name).write_bytes({"shorter": good[:-1], "longer": good + b"\n", "empty": b""}[change])
    with pytest.raises(BundleError, match=rf"{name} was altered"):
        Bundle.open(bundle)


@pytest.mark.parametrize("name", [*FILES, MANIFEST])
def test_a_missing_file_is_refused_by_name(bundle, name):
    (bundle / name).unlink()
    with pytest.raises(BundleError, match=name):
        Bundle.open(bundle)


@pytest.mark.parametrize("name", ["extra.json", "parts/extra.onnx"])
def test_an_extra_file_is_refused_by_name(bundle, name):
    (bundle / name).write_text("{}", encoding="utf-8")
    with pytest.raises(BundleError, match=f"{name} is not in the manifest"):
        Bundle.open(bundle)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("schema", 2, "schema version 2"),
        ("schema", None, "schema version None"),
        ("fingerprint", "0" * 16, "fingerprint"),
        ("spec_fingerprint", "0" * 16, "fingerprint"),
        ("files", {}, "fingerprint"),
    ],
)
def test_a_changed_manifest_is_refused(bundle, key, value, message):
    (bundle / MANIFEST).write_text(json.dumps({**manifest_of(bundle), key: value}), encoding="utf-8")
    with pytest.raises(BundleError, match=message) as refused:
        Bundle.open(bundle)
    assert MANIFEST in str(refused.value)


@pytest.mark.parametrize("key", ["schema", "fingerprint", "spec_fingerprint", "files"])
def test_a_manifest_without_a_key_is_refused(bundle, key):
    kept = {name: value for name, value in manifest_of(bundle).items() if name != key}
    (bundle / MANIFEST).write_text(json.dumps(kept), encoding="utf-8")
    with pytest.raises(BundleError, match=f"{MANIFEST} cannot be read"):
        Bundle.open(bundle)


@pytest.mark.parametrize("text", ["", "[]", "null", "{", "\xff"])
def test_a_manifest_that_is_none_is_refused(bundle, text):
    (bundle / MANIFEST).write_bytes(text.encode("latin-1"))
    with pytest.raises(BundleError, match=f"{MANIFEST} cannot be read"):
        Bundle.open(bundle)


def test_a_folder_that_is_no_bundle_says_what_to_give(tmp_path):
    with pytest.raises(BundleError, match=r"is no bundle: it has no manifest\.json"):
        Bundle.open(tmp_path)


def test_a_file_the_bundle_does_not_hold_is_asked_for_by_name(bundle):
    with pytest.raises(BundleError, match=r"ranker\.onnx is missing"):
        Bundle.open(bundle).file("ranker.onnx")


def write_and_fail(path, error):
    with write_bundle(path, "f" * 16) as draft:
        draft.write_document("spec.json", {})
        raise error


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_failed_write_leaves_the_old_bundle_and_no_draft(bundle, error):
    before = Bundle.open(bundle)
    with pytest.raises(error):
        write_and_fail(bundle, error)
    assert Bundle.open(bundle) == before
    assert [one.name for one in bundle.parent.iterdir()] == ["bundle"]


def test_a_new_bundle_takes_the_place_of_the_old_one(bundle):
    (bundle.parent / "bundle.draft").mkdir()
    (bundle.parent / "bundle.draft" / "left.over").write_text("", encoding="utf-8")
    with write_bundle(bundle, "f" * 16) as draft:
        assert Bundle.open(bundle).document("spec.json") == DOCUMENT, "the old one stays until the new one is whole"
        draft.write_document("only.yaml", [1])
    assert set(manifest_of(bundle)["files"]) == {"only.yaml"}
    assert yaml.safe_load(Bundle.open(bundle).file("only.yaml").read_text(encoding="utf-8")) == [1]
    assert [one.name for one in bundle.parent.iterdir()] == ["bundle"]


def test_a_copy_is_the_same_bundle(bundle):
    copy = bundle.parent / "copy"
    shutil.copytree(bundle, copy)
    assert Bundle.open(copy).fingerprint == Bundle.open(bundle).fingerprint


def test_replacing_a_folder_leaves_nothing_behind(tmp_path):
    for name in ("new", "place"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).write_text("", encoding="utf-8")
    (tmp_path / "place.old").mkdir()
    replace_folder(tmp_path / "new", tmp_path / "place")
    assert [str(one.relative_to(tmp_path)) for one in sorted(tmp_path.rglob("*"))] == ["place", "place/new"]
