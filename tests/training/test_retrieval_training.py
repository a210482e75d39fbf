"""What one training step of the towers asks and learns, against slow twins and known answers.

Shapes: B windows, L history, P = L + 1 positions, M positions that ask, T targets of each, N items.
"""

import math
from collections import Counter
from dataclasses import replace
from functools import partial
from itertools import product

import numpy as np
import pytest
import torch

from recsys.content.text import TextVectors
from recsys.contracts import PAD
from recsys.data.sources.synthetic import Synthetic
from recsys.data.splits import TEST, VALIDATION, GlobalTime
from recsys.features.encode import encode_queries
from recsys.features.spec import Features
from recsys.replay.evaluation_queries import EvaluationQueries
from recsys.retrieval.softmax import SoftmaxLoss
from recsys.retrieval.transformer import TransformerEncoder
from recsys.training import retrieval, validation_queries
from recsys.training.examples import history_windows
from recsys.training.optimizers import DEFAULT_OPTIMIZER
from recsys.training.prepare import prepare
from recsys.training.retrieval import (
    RetrievalExamples,
    RetrievalTask,
    RetrievalTrainerConfig,
    sample_positions,
    shuffled_rows,
    without_padding_columns,
)
from recsys.training.schedules import DEFAULT_SCHEDULE
from recsys.training.validation_queries import ValidationQueries

KNOBS = {
    "dim": 8,
    "user_encoder": partial(TransformerEncoder, num_blocks=1, num_heads=2),
    "loss": SoftmaxLoss(temperature=0.3),
    "dropout": 0.0,
    "id_dropout": 0.0,
    "negatives": 0,
    "lookahead": 3,
    "lookahead_decay": 0.5,
    "members": 1,
    "half_life_days": 10.0,
    "least_steps": 1,
    "batch_size": 64,
    "epochs": 1,
    "most_examples": None,
    "patience": 1,
    "learning_rate": 0.01,
    "weight_decay": 0.0,
    "optimizer": DEFAULT_OPTIMIZER,
    "scheduler": DEFAULT_SCHEDULE,
}
LONG = 200
"""longer than any history"""


class World:
    """A small log, prepared; examples of it as sequences or as sets."""

    def __init__(self, length: int) -> None:
        self.dataset = Synthetic(users=40, items=30, events=2_000, seed=0).load()
        self.split = GlobalTime(rank=0.1, validation=0.1, test=0.2, cuts=1, later=0.0, horizon_days=None).splits(
            self.dataset
        )[-1]
        features = Features(history_length=length, max_values=3, min_count=1, leave_out=["position"])
        prepared = prepare(self.dataset, self.split, features, TextVectors(dim=4, min_documents=1, seed=0))
        self.replay, self.known = prepared.replay, self.split.known(TEST)
        self.spec, self.items = prepared.spec(self.known)
        examples = RetrievalExamples.of(prepared, self.spec, self.known)
        self.events, positives = examples.sequences, examples.positives.copy()
        positives[::5] = False
        self.examples = replace(examples, positives=positives, windows=history_windows(self.events, positives, length))

    def task(self, *, ordered=True, validation=None, **config):
        """As it is trained, but that nothing is dropped and that it logs here."""
        torch.manual_seed(0)
        training = RetrievalTrainerConfig(**{**KNOBS, **config})
        examples = replace(self.examples, ordered=ordered)
        task = RetrievalTask(training.towers(self.spec), self.items, examples, validation, training)
        task.logged = {}
        task.log = lambda name, value, **_: task.logged.update({name: float(torch.as_tensor(value).detach())})
        return task.eval()

    def every_window(self):
        return torch.arange(len(self.examples.windows.events))

    def window(self, task):
        return without_padding_columns(**task.windows.rows(self.every_window()))


@pytest.fixture(scope="module")
def world():
    return World(LONG)


@pytest.fixture(scope="module")
def short():
    """A history of 6 events: most users have several windows."""
    return World(6)


def following_positives(events, positives, event, lookahead, decay):
    """{event: weight} of what a position before `event` asks for, one event after the other."""
    user_ends = events.offsets[np.searchsorted(events.offsets, event, side="right")]
    weights = {
        event + step: decay**step for step in range(lookahead) if event + step < user_ends and positives[event + step]
    }
    return {one: weight / sum(weights.values()) for one, weight in weights.items()}


def target_pairs(step):
    """[{event: weight}] for each position that asks; what weighs nothing is left out."""
    return [
        {event: weight for event, weight in zip(*row, strict=True) if weight > 0}
        for row in zip(step.targets.tolist(), step.weights.tolist(), strict=True)
    ]


@pytest.mark.parametrize(("lookahead", "decay"), [(1, 1.0), (3, 0.5), (20, 1.0)])
def test_a_position_asks_for_the_next_events_of_its_user(short, lookahead, decay):
    task = short.task(lookahead=lookahead, lookahead_decay=decay, half_life_days=None)
    step = task._next_events(short.window(task))
    positives = short.examples.positives
    assert sorted(step.following.tolist()) == np.flatnonzero(positives).tolist(), "every positive, exactly once"
    for event, found in zip(step.following.tolist(), target_pairs(step), strict=True):
        assert found == pytest.approx(following_positives(short.events, positives, event, lookahead, decay), rel=1e-6)


def test_what_a_position_knows_is_all_before_what_it_asks_for(short):
    task = short.task()
    step = task._next_events(short.window(task))
    window, place = torch.nonzero(step.positions, as_tuple=True)
    for row, position, event in zip(window.tolist(), place.tolist(), step.following.tolist(), strict=True):
        seen = [one for one in step.events[row, :position].tolist() if one != PAD]
        assert seen == list(range(event - len(seen), event))
        assert len(seen) >= min(3, short.events.positions[event]), "half a history at least"


def test_old_events_weigh_less_as_targets(short):
    newest, age = short.examples.sequences.timestamps.max(), short.examples.sequences.timestamps
    expected = 0.5 ** ((newest - age) / 86_400 / 10)
    plain, faded = (short.task(half_life_days=days) for days in (None, 10.0))
    step = [task._next_events(short.window(task)) for task in (plain, faded)]
    ratio = step[1].weights / step[0].weights
    counted = step[0].weights > 0
    np.testing.assert_allclose(ratio[counted].numpy(), expected[step[0].targets[counted].numpy()], rtol=1e-5)


def test_without_time_all_events_weigh_alike():
    weights = RetrievalTrainerConfig(**KNOBS).weights(np.full(3, np.nan))
    assert weights.tolist() == [1, 1, 1]


def test_each_position_asks_for_the_rest_of_the_set(short):
    task = short.task(half_life_days=None)
    window = short.window(task)
    wholes = [
        {event for event in (*events, targets[-1]) if event != PAD}
        for events, targets in zip(window["events"].tolist(), window["targets"].tolist(), strict=True)
    ]
    step = task._rest_of_the_set(window)
    rows, place = torch.nonzero(step.positions, as_tuple=True)
    met = set()
    for row, position, following, wanted in zip(
        rows.tolist(), place.tolist(), step.following.tolist(), target_pairs(step), strict=True
    ):
        seen = {event for event in step.events[row, :position].tolist() if event != PAD}
        rest = {event for event in wholes[row] - seen if short.examples.positives[event]}
        assert wanted == pytest.approx(dict.fromkeys(rest, 1 / len(rest)), rel=1e-6)
        assert following in wholes[row] - seen
        met.add((row, len(seen)))
    assert met >= {(row, 0) for row, whole in enumerate(wholes) if short.examples.positives[list(whole)].any()}
    assert len(met) == len(rows), "one position for every number of events that are known"


def test_a_position_of_a_set_that_has_come_to_its_end_does_not_ask(short):
    step = short.task()._rest_of_the_set(short.window(short.task()))
    assert (step.weights.sum(1) > 0).all()
    assert step.weights.isfinite().all()


def test_trimming_leaves_only_what_is_padding_everywhere():
    events = torch.tensor([[PAD, PAD, PAD, 4], [PAD, PAD, 7, 8]])
    targets = torch.tensor([[3, PAD, PAD, PAD, 5], [6, PAD, PAD, 8, 9]])
    assert {name: part.tolist() for name, part in without_padding_columns(events, targets).items()} == {
        "events": [[PAD, 4], [7, 8]],
        "targets": [[3, PAD, 5], [6, 8, 9]],
    }
    empty = without_padding_columns(torch.full((2, 3), PAD), torch.tensor([[0, PAD, PAD, PAD], [1, PAD, PAD, PAD]]))
    assert {name: part.tolist() for name, part in empty.items()} == {"events": [[], []], "targets": [[0], [1]]}


def test_shuffling_draws_every_order_alike_and_keeps_padding_in_front():
    torch.manual_seed(0)
    drawn = shuffled_rows(torch.tensor([[PAD, 1, PAD, 2, 3]]).expand(6_000, -1))
    assert (drawn[:, :2] == PAD).all()
    counts = Counter(map(tuple, drawn[:, 2:].tolist()))
    assert len(counts) == 6
    assert sum((count - 1_000) ** 2 / 1_000 for count in counts.values()) < 20.5, "chi square, one in a thousand"


def test_the_chance_to_be_in_the_sample_by_enumeration():
    """Three items, two uniform negatives and two targets by popularity: 81 equally weighted draws."""
    shares, negatives, targets = [0.5, 0.3, 0.2], 2, 2
    expected = np.zeros(3)
    for draw in product(range(3), repeat=negatives + targets):
        chance = (1 / 3) ** negatives * math.prod(shares[item] for item in draw[negatives:])
        expected[list(set(draw))] += chance
    found = chance_of(shares, negatives, targets)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def chance_of(shares, negatives, targets):
    """What a task of items with these shares takes for the chance of each."""
    task = object.__new__(RetrievalTask)
    torch.nn.Module.__init__(task)
    task.config, task.num_items = RetrievalTrainerConfig(**{**KNOBS, "negatives": negatives}), len(shares)
    task.num_negatives = negatives
    task.popularity = {"share": torch.tensor(shares, dtype=torch.double)}
    task.negatives = {"item": torch.arange(len(shares))}
    thrice = torch.arange(targets).repeat(3)
    return task._log_chance(torch.arange(len(shares)), thrice).exp().numpy()


@pytest.mark.parametrize(("ordered", "lookahead"), [(True, 1), (True, 3), (False, 1)])
def test_the_chance_to_be_in_the_sample_by_drawing(short, ordered, lookahead):
    """Windows are no independent draws of events, so the chance is right on the whole only."""
    task = short.task(ordered=ordered, lookahead=lookahead, negatives=3)
    torch.manual_seed(0)
    drawn, said = torch.zeros(2, 30)
    for _ in range(500):
        window = without_padding_columns(**task.windows.rows(torch.randperm(len(short.every_window()))[:3]))
        step = task._next_events(window) if ordered else task._rest_of_the_set(window)
        targets = step.targets[step.weights > 0]
        drawn[task._sample(task.events["item"][targets])] += 1 / 500
        said += task._log_chance(torch.arange(30), targets).exp() / 500
    assert drawn.min() < 0.2
    assert drawn.max() > 0.6
    assert (said - drawn).abs().mean() < 0.08


def test_an_item_that_is_alone_is_surely_in_the_sample():
    assert chance_of([1.0], 1, 1).tolist() == [1]


def test_a_sample_holds_each_of_its_items_once_and_all_targets(short):
    task = short.task(negatives=20)
    wanted = torch.tensor([3, 3, 7])
    sample = task._sample(wanted).tolist()
    assert sample == sorted(set(sample))
    assert {3, 7} <= set(sample)
    assert 2 < len(sample) <= 22
    assert set(sample) <= set(range(30))
    full = short.task()
    assert full._sample(wanted).tolist() == np.unique(short.events.items).tolist()
    assert full._log_chance(full._sample(wanted), wanted) is None


def served_vectors(world, task, rows):
    """User vectors as serving makes them, of the queries at these rows of the log."""
    request, _ = encode_queries(world.spec, world.items, world.replay.queries(rows, k=1))
    return task.towers.users({name: torch.from_numpy(part) for name, part in request.tensors().items()})


@torch.no_grad()
def test_a_training_step_is_the_likelihood_of_what_serving_would_have_ranked(world):
    """One window a user: every position is the query that the user would have sent at that moment."""
    task = world.task()
    step = task.training_step(world.every_window())
    events, positives = world.events, np.flatnonzero(world.examples.positives)
    vectors = served_vectors(world, task, events.rows[positives])
    logits = vectors @ task.catalogue_vectors().T / KNOBS["loss"].temperature
    unmet = np.setdiff1d(np.arange(logits.shape[1]), events.items)
    logits[:, unmet] = -torch.inf
    log_chances = logits.log_softmax(1)
    aged = task.config.weights(world.examples.sequences.timestamps)
    loss = total = 0.0
    for row, event in enumerate(positives.tolist()):
        wanted = following_positives(events, world.examples.positives, event, 3, 0.5)
        for target, weight in wanted.items():
            loss -= weight * aged[target] * float(log_chances[row, events.items[target]])
            total += weight * aged[target]
    assert step["examples"] == len(positives) == task.events["positive"].sum()
    assert float(step["loss"]) == pytest.approx(loss / total, rel=1e-4)
    assert task.logged["retrieval/loss"] == pytest.approx(loss / total, rel=1e-4)


@torch.no_grad()
def test_windows_in_one_batch_do_not_change_each_other(short):
    task = short.task(half_life_days=None)
    batches = [torch.arange(start, start + 3) for start in (0, 3)]
    together, *apart = [task.training_step(batch) for batch in (torch.cat(batches), *batches)]
    assert together["examples"] == sum(step["examples"] for step in apart)
    expected = sum(float(step["loss"]) * step["examples"] for step in apart)
    assert float(together["loss"]) * together["examples"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("ordered", "negatives"), [(True, 0), (True, 10), (False, 0), (False, 10)])
def test_training_gets_better_at_what_it_is_asked(short, ordered, negatives):
    task = short.task(ordered=ordered, negatives=negatives).train()
    optimiser = torch.optim.Adam(task.parameters(), lr=0.01)
    losses = []
    for _ in range(60):
        loss = task.training_step(short.every_window())["loss"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert np.mean(losses[-5:]) < np.mean(losses[:5]) - 0.1


@pytest.fixture(scope="module")
def questions(short):
    return EvaluationQueries.of(short.dataset, short.split, short.replay, VALIDATION)


@pytest.fixture
def small_steps(monkeypatch):
    for module in (validation_queries, retrieval):
        monkeypatch.setattr(module, "QUERY_BATCH", 4)


@torch.no_grad()
@pytest.mark.usefixtures("small_steps")
def test_validation_queries_are_trimmed_without_changing_a_vector(world):
    questions = EvaluationQueries.of(world.dataset, world.split, world.replay, VALIDATION)
    queries, task = ValidationQueries.of(questions, world.spec, world.items), world.task()
    batches = list(queries.batches())
    assert sum(len(batch["history_gaps"]) for batch in batches) == len(questions)
    widths = [batch["history_gaps"].shape[1] for batch in batches]
    assert max(widths) < LONG
    assert len(set(widths)) > 1
    found = [task.towers.users({name: torch.from_numpy(part) for name, part in batch.items()}) for batch in batches]
    torch.testing.assert_close(
        torch.cat(found), served_vectors(world, task, questions.rows), rtol=0, atol=1e-6, check_stride=False
    )


@torch.no_grad()
@pytest.mark.usefixtures("small_steps")
def test_validation_ranks_the_catalogue_without_what_was_removed(short, questions):
    queries = ValidationQueries.of(questions, short.spec, short.items)
    task = short.task(validation=queries)
    task.validation_step(torch.tensor([0]))
    scores = (served_vectors(short, task, questions.rows) @ task.catalogue_vectors().T).numpy()
    scores[questions.removed.toarray() != 0] = -np.inf
    assert np.isinf(scores).any()
    rankings = np.argsort(-scores, axis=1, kind="stable")
    assert task.logged == pytest.approx({retrieval.MONITOR: queries.score(rankings).mean()})
    assert task.logged[retrieval.MONITOR] != pytest.approx(queries.score(rankings[:, ::-1]).mean(), rel=0.01)


def test_the_removed_rows_are_those_of_the_questions(short, questions):
    queries = ValidationQueries.of(questions, short.spec, short.items)
    for row, removed in zip(queries.removed_rows[: len(questions)], questions.removed.toarray(), strict=True):
        listed = row[row != PAD]
        assert listed.tolist() == np.flatnonzero(removed).tolist()
        assert (row[len(listed) :] == PAD).all()


def test_ragged_rows_are_padded_to_the_longest_of_those_that_are_read():
    rows = {"offsets": np.array([0, 1, 1, 4]), "values": np.array([5, 6, 7, 8])}
    before, behind = (validation_queries.RaggedRows(**rows, pad_front=before) for before in (True, False))
    assert len(before) == 3
    assert before[0:2].tolist() == [[5], [PAD]]
    assert before[0:9].tolist() == [[PAD, PAD, 5], [PAD, PAD, PAD], [6, 7, 8]]
    assert behind[0:3].tolist() == [[5, PAD, PAD], [PAD, PAD, PAD], [6, 7, 8]]
    assert behind[1:2].tolist() == [[]]


def test_judging_known_answers(short, questions):
    """Found at place 2, and of two targets one at place 1: NDCG 1 / log2(3) and 1 / (1 + 1 / log2(3))."""
    queries = replace(
        ValidationQueries.of(questions, short.spec, short.items), targets=validation_queries.Targets.of([[7], [3, 4]])
    )
    second = 1 / math.log2(3)
    rows = np.array([[5, 7, 1], [3, 6, PAD]])
    assert queries.score(rows) == pytest.approx([second + 1, 1 / (1 + second) + 0.5])
    assert not queries.score(np.full((2, 3), PAD)).any()


def test_some_places_are_drawn_alike_and_only_where_they_may_be():
    torch.manual_seed(0)
    places = torch.tensor([[True] * 6 + [False] * 4, [False] * 9 + [True], [False] * 10]).repeat(2_000, 1, 1)
    drawn = torch.stack([sample_positions(one, 2) for one in places])
    assert not (drawn & ~places).any()
    assert drawn.sum(-1).unique(dim=0).tolist() == [[2, 1, 0]]
    np.testing.assert_allclose(drawn[:, 0, :6].float().mean(0), 2 / 6, atol=0.05)
