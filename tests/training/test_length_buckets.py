"""Batches of like sizes: everything once an epoch, as many batches in every epoch, no batch empty or far too large."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.training.batches import LengthBucketSampler, ShuffledBatchSampler, length_bucket_batches

SIZES = st.lists(st.integers(1, 60), min_size=1, max_size=400).map(np.array)


def epoch(sizes, batch_size, seed=0, number=0):
    sampler = LengthBucketSampler(sizes, batch_size, seed)
    sampler.set_epoch(number)
    return [batch.tolist() for batch in sampler]


def padded(sizes, batches):
    """What is computed when every example is as long as the longest of its batch."""
    return sum(sizes[batch].max() * len(batch) for batch in batches)


@settings(deadline=None, max_examples=200)
@given(SIZES, st.integers(1, 200), st.integers(0, 3), st.integers(0, 3))
def test_every_example_comes_once_and_the_number_of_batches_is_that_of_every_epoch(sizes, batch_size, seed, number):
    batches = epoch(sizes, batch_size, seed, number)
    assert all(batches)
    assert sorted(example for batch in batches for example in batch) == list(range(len(sizes)))
    assert (
        len(batches)
        == len(LengthBucketSampler(sizes, batch_size, seed))
        == len(length_bucket_batches(sizes, batch_size, seed))
    )
    assert batches == epoch(sizes, batch_size, seed, number)


@settings(deadline=None, max_examples=200)
@given(SIZES, st.integers(1, 200))
def test_batches_of_one_stretch_are_of_about_the_size_that_was_asked_for(sizes, batch_size):
    """No batch exceeds its share by a whole example, and there are as many as the total asks for."""
    sampler = LengthBucketSampler(sizes, batch_size, 0)
    sampler.examples = len(sizes)
    sampler.SHUFFLE_WINDOW = max(1, round(sizes.sum() / batch_size))
    batches = list(sampler)
    assert len(batches) == min(len(sizes), sampler.SHUFFLE_WINDOW)
    for batch in batches:
        assert len(batch) == 1 or sizes[batch].sum() < sizes.sum() / len(batches) + sizes.max()


def test_batches_of_many_stretches_are_of_about_the_size_that_was_asked_for():
    sizes = np.random.default_rng(0).integers(1, 51, 20_000)
    totals = np.array([sizes[batch].sum() for batch in epoch(sizes, 1_000)])
    assert abs(len(totals) - sizes.sum() / 1_000) <= 1 + len(totals) / LengthBucketSampler.SHUFFLE_WINDOW
    assert totals.min() > 900
    assert totals.max() < 1_100


def test_little_is_padded():
    sizes = np.random.default_rng(0).integers(1, 51, 5_000)
    random = list(ShuffledBatchSampler(len(sizes), 40, 0))
    assert padded(sizes, random) > 1.8 * sizes.sum()
    assert padded(sizes, epoch(sizes, 1_000)) < 1.1 * sizes.sum()


def test_another_epoch_and_another_seed_have_other_batches_in_another_order():
    sizes = np.random.default_rng(0).integers(1, 20, 300)
    drawn = [epoch(sizes, 50, seed, number) for seed in range(2) for number in range(3)]
    assert len({str(batches) for batches in drawn}) == 6
    assert len({str(sorted(map(sorted, batches))) for batches in drawn}) == 6
    lengths = [np.mean([sizes[batch].mean() for batch in batches[: len(batches) // 2]]) for batches in drawn]
    assert max(lengths) < sizes.mean() * 1.5, "short ones do not come first"


def test_one_example_larger_than_a_batch_stands_alone():
    batches = epoch(np.array([1, 1, 1, 100]), 2)
    assert [3] in batches
    assert sorted(map(len, batches)) == [1, 1, 1, 1]
