"""Triton configurations from what the stages declare, read back by the rules of protobuf's text format."""

import re
from dataclasses import dataclass

import pytest

from recsys.export.configuration import (
    MAX_BATCH_SIZE,
    PROFILES,
    Symbol,
    ensemble_configuration,
    pbtxt,
    stage_configuration,
)
from recsys.tensors import TensorSpec


@dataclass(frozen=True)
class Declared:
    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    optional_inputs: tuple[TensorSpec, ...] = ()


def tensor(name, dtype="float32", *shape):
    return TensorSpec(name=name, dtype=dtype, shape=shape or (1,))


QUERY, ROWS, SCORES = (
    tensor("QUERY", "bytes"),
    tensor("candidate_rows", "int64", -1),
    tensor("scores", "float32", -1, 7),
)
PROBABILITIES, SLATE = tensor("probabilities", "float32", -1, 4), tensor("SLATE", "bytes")
RETRIEVE = Declared("retrieve", (QUERY,), (SCORES, ROWS, tensor("unread")))
RANK = Declared("rank", (SCORES,), (PROBABILITIES,))
RULES = Declared("rules", (QUERY, ROWS), (SLATE,), (PROBABILITIES,))
EXPLAIN = Declared("explain", (QUERY, SLATE, SCORES), (SLATE,))


def parsed(text):
    """Protobuf text format -> {field: [values]}, every field a list."""
    tokens = re.findall(r'"[^"]*"|[{}:]|[^\s{}:"]+', text)
    message = block(iter([*tokens, "}"]))
    assert not re.search(r"[^\x20-\x7e\n]", text)
    return message


def block(tokens):
    message = {}
    for name in tokens:
        if name == "}":
            return message
        sign = next(tokens)
        message.setdefault(name, []).append(block(tokens) if sign == "{" else value(sign, tokens))
    raise AssertionError("a brace is open")


def value(sign, tokens):
    assert sign == ":"
    word = next(tokens)
    if word.startswith('"'):
        return word[1:-1]
    return int(word) if re.fullmatch(r"-?\d+", word) else Symbol(word)


def test_the_text_format_known_answer():
    message = {"name": "a", "count": 3, "on": True, "kind": Symbol("KIND_CPU"), "dims": [1, -1], "part": [{"x": "y"}]}
    assert pbtxt(message) == ('name: "a"\ncount: 3\non: true\nkind: KIND_CPU\ndims: 1\ndims: -1\npart {\n  x: "y"\n}\n')


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("stage", [RETRIEVE, RANK, RULES], ids=lambda stage: stage.name)
def test_a_stage_says_its_tensors(stage, profile):
    found = parsed(pbtxt(stage_configuration(stage, profile)))
    assert found["name"] == [stage.name]
    assert found["max_batch_size"] == [MAX_BATCH_SIZE]
    for side, tensors in (("input", (*stage.inputs, *stage.optional_inputs)), ("output", stage.outputs)):
        assert [one["name"][0] for one in found[side]] == [one.name for one in tensors]
        assert [one["dims"] for one in found[side]] == [list(one.shape) for one in tensors]
    optional = [one["name"][0] for one in found["input"] if "optional" in one]
    assert optional == [one.name for one in stage.optional_inputs]


def test_types_are_those_of_triton():
    types = [one["data_type"] for one in stage_configuration(RETRIEVE, "cpu")["output"]]
    assert types == [Symbol("TYPE_FP32"), Symbol("TYPE_INT64"), Symbol("TYPE_FP32")]
    assert stage_configuration(RETRIEVE, "cpu")["input"][0]["data_type"] == Symbol("TYPE_STRING")


def test_only_the_ranker_of_the_gpu_profile_leaves_the_python_backend():
    backends = {
        (stage.name, profile): stage_configuration(stage, profile)["backend"]
        for stage in (RETRIEVE, RANK, RULES)
        for profile in PROFILES
    }
    assert [place for place, backend in backends.items() if backend != "python"] == [("rank", "gpu")]
    gpu = stage_configuration(RANK, "gpu")
    assert gpu["instance_group"] == [{"count": 1, "kind": Symbol("KIND_GPU")}]
    assert gpu["dynamic_batching"]["max_queue_delay_microseconds"] > 0
    same = ("name", "max_batch_size", "input", "output")
    assert {key: gpu[key] for key in same} == {key: stage_configuration(RANK, "cpu")[key] for key in same}


def steps(*stages):
    found = parsed(pbtxt(ensemble_configuration("whole", stages)))
    assert found["platform"] == ["ensemble"]
    return found, {
        step["model_name"][0]: tuple(
            [one["key"][0] for one in step.get(f"{side}_map", [])] for side in ("input", "output")
        )
        for step in found["ensemble_scheduling"][0]["step"]
    }


def test_the_ensemble_passes_every_tensor_from_where_it_is_made_to_where_it_is_read():
    found, wired = steps(RETRIEVE, RANK, RULES)
    assert wired == {
        "retrieve": (["QUERY"], ["scores", "candidate_rows"]),
        "rank": (["scores"], ["probabilities"]),
        "rules": (["QUERY", "candidate_rows", "probabilities"], ["SLATE"]),
    }
    assert [one["name"] for one in found["input"]] == [["QUERY"]]
    assert [one["name"] for one in found["output"]] == [["SLATE"]]


def test_without_the_ranker_its_output_is_not_asked_for():
    wired = steps(RETRIEVE, RULES)[1]
    assert wired == {
        "retrieve": (["QUERY"], ["candidate_rows"]),
        "rules": (["QUERY", "candidate_rows"], ["SLATE"]),
    }


def test_a_stage_that_gives_again_what_it_read_is_the_one_that_answers():
    found = parsed(pbtxt(ensemble_configuration("recommend_explained", (RETRIEVE, RANK, RULES, EXPLAIN))))
    steps = found["ensemble_scheduling"][0]["step"]
    maps = [
        {side: {one["key"][0]: one["value"][0] for one in step[f"{side}_map"]} for side in ("input", "output")}
        for step in steps
    ]
    assert maps[2]["output"] == {"SLATE": "rules_SLATE"}
    assert maps[3] == {
        "input": {"QUERY": "QUERY", "SLATE": "rules_SLATE", "scores": "scores"},
        "output": {"SLATE": "SLATE"},
    }
    assert [one["name"][0] for one in found["output"]] == ["SLATE"]
