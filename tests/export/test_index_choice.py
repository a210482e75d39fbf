"""The index that an export chooses reaches the model that retrieves; an older repository has the trained one."""

import json

import pytest

from recsys.export.configuration import pbtxt, stage_configuration
from recsys.export.repository import write_repository
from recsys.index import AS_TRAINED, IndexChoice
from recsys.stages import load_retrieve


@pytest.mark.parametrize(
    ("profile", "index", "written"),
    [
        ("cpu", None, None),
        ("cpu", IndexChoice(kind="device", device="cuda:1"), ("device", "cuda:1")),
        ("gpu", None, ("auto", "cuda")),
        ("gpu", AS_TRAINED, None),
    ],
)
def test_the_model_that_retrieves_is_told_its_index(trained, tmp_path, profile, index, written):
    write_repository(trained.bundle, tmp_path / "serve", profile, index=index)
    text = (tmp_path / "serve" / "current" / "models" / "retrieve" / "config.pbtxt").read_text()
    assert ("parameters" in text) == (written is not None)
    for value in written or ():
        assert f'string_value: "{value}"' in text


def test_only_retrieve_has_an_index(trained):
    choice = IndexChoice(kind="device")
    configurations = [stage_configuration(stage, "cpu", choice) for stage in trained.stages]
    assert ["parameters" in one for one in configurations] == [True, False, False]
    assert 'key: "index"' in pbtxt(configurations[0])
    assert json.dumps(AS_TRAINED.kind) not in pbtxt(configurations[0])


def test_a_retrieve_stage_loads_what_was_chosen(trained):
    choices = [IndexChoice(kind=kind, device="cpu") for kind in ("faiss", "exact", "device")]
    kinds = [type(load_retrieve(trained.bundle, one).sources.index).__name__ for one in choices]
    assert kinds == ["FaissIndex", "ExactIndex", "GuardedDeviceIndex"]
