"""A sentence encoder of a few words: one row of an embedding table a token, as ONNX, with a tokenizer that splits at spaces."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, models, pre_tokenizers

UNKNOWN = "[UNK]"


def write_sentence_network(folder: Path, table: Mapping[str, Sequence[float]]) -> Path:
    """Write model.onnx and tokenizer.json for words with their vectors; other words have zeros."""
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = {UNKNOWN: 0, **{word: number for number, word in enumerate(table, 1)}}
    length = len(next(iter(table.values())))
    rows = np.array([[0.0] * length, *table.values()], dtype=np.float32)
    graph = helper.make_graph(
        [helper.make_node("Gather", ["table", "input_ids"], ["last_hidden_state"])],
        "encoder",
        [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "sequence"])],
        [helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT, ["batch", "sequence", length])],
        [numpy_helper.from_array(rows, "table")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, folder / "model.onnx")
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder
