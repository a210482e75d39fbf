"""Validation chooses the text encoder: the richer one where it is better beyond chance, else the simple one, saying why."""

from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from sentence_network import write_sentence_network

from recsys.content.choice import TextChoice
from recsys.content.sentences import SentenceVectorizer
from recsys.content.text import TextVectors
from recsys.content.text_encoder import TextVectorizer
from recsys.data.dataset import Dataset
from recsys.data.description import Description
from recsys.data.splits import LeaveOneOut
from recsys.data.validation import RawTable, validated
from recsys.errors import ConfigError
from recsys.features.spec import Features
from recsys.replay.evaluation_queries import EvaluationQueries
from recsys.training.prepare import Prepared, prepare
from recsys.training.text_choice import choose_text

TOPICS, ITEMS_OF_TOPIC, USERS, EVENTS = 6, 8, 120, 7
NUM_ITEMS = TOPICS * ITEMS_OF_TOPIC
NAMES = [chr(ord("a") + number // 26) + chr(ord("a") + number % 26) for number in range(NUM_ITEMS)]
"""every title is a word of its own, so that titles of one topic have nothing in common that TF-IDF could see"""


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    """Users stay with one topic; item i belongs to topic i // ITEMS_OF_TOPIC."""
    rng = np.random.default_rng(0)
    rows = [
        {"user": f"u{user}", "item": f"i{item}", "timestamp": float(time)}
        for user in range(USERS)
        for time, item in enumerate(
            user % TOPICS * ITEMS_OF_TOPIC + rng.choice(ITEMS_OF_TOPIC, size=EVENTS, replace=False)
        )
    ]
    items = pl.DataFrame({"item": [f"i{number}" for number in range(NUM_ITEMS)], "title": NAMES})

    def table(frame: pl.DataFrame) -> RawTable:
        return RawTable(file="memory", frame=frame, names={name: name for name in frame.columns}, separator="|")

    described = Description(
        actions={},
        context={},
        items={"title": "text"},
        users={},
        objectives={"met": "1"},
        target="met",
        title="title",
        order="time",
    )
    users = pl.DataFrame({"user": [f"u{user}" for user in range(USERS)]})
    return validated(
        name="topics",
        interactions=table(pl.DataFrame(rows)),
        items=table(items),
        users=table(users),
        description=described,
    )


def encoder(folder: Path, topic_of: np.ndarray) -> SentenceVectorizer:
    """One vector a topic; a topic a title as the network sees it."""
    table = {name: np.eye(TOPICS)[topic_of[number]].tolist() for number, name in enumerate(NAMES)}
    write_sentence_network(folder, table)
    return SentenceVectorizer(folder=str(folder), cache=None, dim=TOPICS, max_tokens=8)


def chosen(dataset: Dataset, other: TextVectorizer, max_seconds: float = 60.0) -> Prepared:
    split = LeaveOneOut(min_events=4).splits(dataset)[0]
    features = Features(history_length=8, max_values=3, min_count=1, leave_out=[])
    simple = TextVectors(dim=8, min_documents=1, seed=0)
    return choose_text(
        TextChoice(choices={"simple": simple, "other": other}, max_seconds=max_seconds),
        partial(prepare, dataset, split, features),
        lambda prepared: EvaluationQueries.of(dataset, split, prepared.replay, 2),
    )


TOPIC_OF = np.arange(NUM_ITEMS) // ITEMS_OF_TOPIC


def test_an_encoder_that_knows_what_words_mean_is_chosen(dataset: Dataset, tmp_path: Path) -> None:
    prepared = chosen(dataset, other := encoder(tmp_path, TOPIC_OF))
    assert prepared.text is not None
    assert prepared.text.files
    assert prepared.notes[0].startswith(
        "item texts by other, chosen on validation; content ranked by simple: NDCG@10 0."
    )
    titles = {"title": dataset.items["title"].to_list()}
    np.testing.assert_array_equal(prepared.catalogue["text"], other.fit_transform(titles)[1])


def test_an_encoder_that_knows_nothing_of_them_is_not(dataset: Dataset, tmp_path: Path) -> None:
    shuffled = np.random.default_rng(1).permutation(TOPIC_OF)
    prepared = chosen(dataset, encoder(tmp_path, shuffled))
    assert prepared.text is not None
    assert not prepared.text.files
    assert prepared.notes[0].startswith("item texts by simple, chosen on validation; ")


@pytest.mark.parametrize(("seconds", "reason"), [(0.0, "more than content.max_seconds=0"), (60.0, "lacks model.onnx")])
def test_one_that_is_missing_or_too_slow_is_left_out_and_the_report_says_so(
    dataset: Dataset, tmp_path: Path, seconds: float, reason: str
) -> None:
    other = encoder(tmp_path, TOPIC_OF)
    if seconds:
        (tmp_path / "model.onnx").unlink()
    prepared = chosen(dataset, other, seconds)
    assert "; other left out: " in prepared.notes[0]
    assert reason in prepared.notes[0]
    assert not prepared.text.files  # type: ignore[union-attr]


def test_a_choice_needs_two(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"content\.choices has 1 encoders"):
        TextChoice(choices={"simple": TextVectors(dim=8, min_documents=1, seed=0)}, max_seconds=1.0)
