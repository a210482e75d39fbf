"""Item text vectors by a pretrained sentence encoder: mean of its token vectors, then principal components of the catalogue.

Reimers and Gurevych 2019, arXiv 1908.10084. Shapes: N texts, T tokens, E length of the network's vectors, D dim.
"""

import hashlib
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from time import perf_counter
from typing import Any, Self

import numpy as np
import onnxruntime

from recsys.content.pretrained import NETWORK_FILES, TOKENIZER_FILE, default_encoder
from recsys.content.text_encoder import Document, TextColumns, TextEncoder, join_columns
from recsys.errors import ConfigError, check_ranges
from recsys.progress import Progress, silent, tracked
from recsys.tensors import Arrays
from recsys.wheels import one_line

NETWORK, TOKENIZER = "sentence_encoder.onnx", "sentence_tokenizer.json"
"""files of a bundle"""
MIN_NORM = 1e-9
TIMED_TEXTS = 16
"""texts that are encoded to estimate how long all take"""


@dataclass(frozen=True, kw_only=True)
class SentenceNetwork:
    """A transformer as an ONNX file with its tokenizer: text -> mean of the token vectors.

    A text is encoded alone and by one thread, never padded in a batch, so that its vector depends on nothing else.
    """

    network: Path
    """reads input_ids, attention_mask and maybe token_type_ids, int64 [1, T]; gives [1, T, E], or pooled [1, E]"""
    tokenizer: Path
    """tokenizer.json"""
    max_tokens: int

    def __call__(self, text: str) -> np.ndarray:
        """[E] float32 of length 1."""
        ids = np.array([self._tokenizer.encode(text).ids], dtype=np.int64)
        given = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
        found = self._session.run(None, {name: given[name] for name in self._inputs})[0]
        pooled = found[0].sum(axis=0) / max(ids.shape[1], 1) if found.ndim == 3 else found[0]
        return (pooled / max(float(np.linalg.norm(pooled)), MIN_NORM)).astype(np.float32)

    def encode(self, texts: Sequence[str], progress: Progress = silent) -> dict[str, np.ndarray]:
        """Return the vector [E] of each distinct text, encoded on all cores."""
        with ThreadPoolExecutor(_num_cores()) as pool:
            vectors = tracked(pool.map(self, texts), len(texts), progress, "sentence vectors")
            return dict(zip(texts, vectors, strict=True))

    @property
    def sha256(self) -> str:
        """Of both files, in hex."""
        return hashlib.sha256(self.network.read_bytes() + self.tokenizer.read_bytes()).hexdigest()

    @cached_property
    def _session(self) -> onnxruntime.InferenceSession:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        try:
            session = onnxruntime.InferenceSession(self.network, options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise ConfigError(f"{self.network} is no ONNX network: {one_line(error)}; export it anew") from None
        known = {"input_ids", "attention_mask", "token_type_ids"}
        if strange := sorted({one.name for one in session.get_inputs()} - known):
            raise ConfigError(
                f"{self.network} reads {strange[0]!r}; give an encoder that reads {', '.join(sorted(known))}"
            )
        return session

    @cached_property
    def _inputs(self) -> tuple[str, ...]:
        return tuple(one.name for one in self._session.get_inputs())

    @cached_property
    def _tokenizer(self) -> Any:
        try:
            tokenizer = _tokenizers().Tokenizer.from_file(str(self.tokenizer))
        except Exception as error:
            raise ConfigError(f"{self.tokenizer} is no tokenizer: {one_line(error)}; export it anew") from None
        tokenizer.no_padding()
        tokenizer.enable_truncation(self.max_tokens)
        return tokenizer


@dataclass(frozen=True, kw_only=True)
class SentenceVectors:
    """Principal components of sentence vectors; made by `SentenceVectorizer.fit_transform`."""

    columns: tuple[str, ...]
    network: SentenceNetwork
    mean: np.ndarray
    """[E] float32"""
    components: np.ndarray
    """[D, E] float32"""

    def __call__(self, columns: TextColumns) -> np.ndarray:
        texts = join_columns([columns[name] for name in self.columns])
        return self.reduced(texts, self.network.encode(distinct_texts(texts)))

    def reduced(self, texts: Sequence[str], encoded: Mapping[str, np.ndarray]) -> np.ndarray:
        """[N, D] of texts by their sentence vectors, one by one: a product of matrices would give other last digits."""
        vectors = np.zeros((len(texts), len(self.components)), dtype=np.float32)
        for row, text in enumerate(texts):
            if text in encoded:
                vector = self.components @ (encoded[text] - self.mean)
                if (norm := float(np.linalg.norm(vector))) > MIN_NORM:
                    vectors[row] = vector / norm
        return vectors

    @property
    def files(self) -> Mapping[str, Path]:
        return {NETWORK: self.network.network, TOKENIZER: self.network.tokenizer}

    def to_documents(self) -> tuple[Document, Arrays]:
        document = {"columns": list(self.columns), "max_tokens": self.network.max_tokens}
        return document, {"mean": self.mean, "components": self.components}

    @classmethod
    def from_documents(cls, document: Mapping[str, Any], arrays: Arrays, network: Path, tokenizer: Path) -> Self:
        """Return the encoder of a document, its arrays and its files."""
        _tokenizers()
        return cls(
            columns=tuple(document["columns"]),
            network=SentenceNetwork(network=network, tokenizer=tokenizer, max_tokens=document["max_tokens"]),
            mean=arrays["mean"],
            components=arrays["components"],
        )


class SentenceVectorizer:
    """Configuration of a sentence encoder by its folder, or of the default one, which is fetched once."""

    def __init__(self, *, folder: str | None, cache: str | None, dim: int, max_tokens: int) -> None:
        """
        folder: holds model.onnx, or onnx/model.onnx, and tokenizer.json; None: all-MiniLM-L6-v2 with int8 weights
        cache: folder that keeps the default one for the next run; None: the user's cache folder of the platform
        dim: length of the vectors, 1 to 4,096; less where the network gives less or the catalogue is smaller
        max_tokens: tokens of a text, at most; what comes later is cut off
        """
        check_ranges("content", dim=(dim, 1, 4_096), max_tokens=(max_tokens, 3, 8_192))
        self.folder, self.cache, self.dim, self.max_tokens = folder, cache, dim, max_tokens

    @cached_property
    def network(self) -> SentenceNetwork:
        """The encoder; ConfigError or DataError where it cannot be had."""
        _tokenizers()
        folder = default_encoder(self.cache) if self.folder is None else Path(self.folder)
        found = [folder / name for name in NETWORK_FILES if (folder / name).is_file()]
        tokenizer = folder / TOKENIZER_FILE
        if not found or not tokenizer.is_file():
            raise ConfigError(
                f"content.folder {folder} lacks {NETWORK_FILES[0]} or {TOKENIZER_FILE}; "
                "export the encoder to ONNX, e.g. by optimum-cli export onnx"
            )
        return SentenceNetwork(network=found[0], tokenizer=tokenizer, max_tokens=self.max_tokens)

    @property
    def parameters(self) -> Document:
        return {"dim": self.dim, "max_tokens": self.max_tokens, "sha256": self.network.sha256}

    def estimated_s(self, columns: TextColumns) -> float:
        distinct = distinct_texts(join_columns(list(columns.values())))
        sample = distinct[:: max(1, len(distinct) // TIMED_TEXTS)]
        self.network.encode(sample[:1])  # opens the files
        started = perf_counter()
        self.network.encode(sample)
        return (perf_counter() - started) / max(len(sample), 1) * len(distinct)

    def fit_transform(self, columns: TextColumns, progress: Progress = silent) -> tuple[TextEncoder, np.ndarray]:
        texts = join_columns(list(columns.values()))
        encoded = self.network.encode(distinct_texts(texts), progress)
        mean, components = principal_components(
            np.array([encoded[text] for text in texts if text in encoded]), self.dim
        )
        encoder = SentenceVectors(columns=tuple(columns), network=self.network, mean=mean, components=components)
        return encoder, encoder.reduced(texts, encoded)

    def fitted(self, document: Mapping[str, Any], arrays: Arrays) -> TextEncoder:
        return SentenceVectors.from_documents(document, arrays, self.network.network, self.network.tokenizer)


def distinct_texts(texts: Sequence[str]) -> list[str]:
    """Return each text once, in their order, without blank ones."""
    return [text for text in dict.fromkeys(texts) if text.strip()]


def principal_components(vectors: np.ndarray, dim: int) -> tuple[np.ndarray, np.ndarray]:
    """Vectors [N, E] -> mean [E] and the directions of largest variance [min(dim, E, N), E], float32; none where N is 0."""
    if not len(vectors):
        return np.zeros(1, dtype=np.float32), np.zeros((1, 1), dtype=np.float32)
    mean = vectors.mean(axis=0, dtype=np.float64)
    centred = vectors - mean
    _, directions = np.linalg.eigh(centred.T @ centred)  # ascending
    components = directions.T[::-1][: min(dim, len(vectors))]
    signs = np.sign(components[np.arange(len(components)), np.abs(components).argmax(axis=1)])
    return mean.astype(np.float32), (components * signs[:, None]).astype(np.float32)


def _tokenizers() -> Any:
    try:
        import tokenizers
    except ImportError:
        raise ConfigError("a sentence encoder needs the package tokenizers; run `pip install recsys[text]`") from None
    return tokenizers


def _num_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
