"""Weights that hold in a period that did not choose them: lists that suit one period alone lose their weight."""

import numpy as np
import pytest

from recsys.candidates.weight_search import LITTLE, PeriodSearch, halves

TOWERS, LIST, OTHER = 0, 1, 2


def share(weights):
    return np.array(weights) / sum(weights)


def period(wanted):
    """Highest where the weights have these ratios."""
    return lambda weights: np.full(30, 1 - np.square(share(weights) - wanted).sum())


def search(*objectives, starts=((1.0, 1.0, 1.0),), **options):
    options.setdefault("first_places", objectives)
    return PeriodSearch(objectives=objectives, starts=starts, kept=[TOWERS], lists=[LIST], places=[0, 1, 2], **options)


def best(*objectives, **options):
    return search(*objectives, **options).best(lambda starts: starts)


def test_a_list_that_is_right_in_both_periods_keeps_its_weight():
    both = period([0.3, 0.5, 0.2])
    np.testing.assert_allclose(share(best(both, both)), [0.3, 0.5, 0.2], atol=0.06)


def test_a_list_that_is_right_in_one_period_alone_loses_its_weight():
    lucky, plain = period([0.1, 0.9, 0.0]), period([0.6, 0.0, 0.4])
    weights = best(lucky, plain, plain, starts=[(0.01, 0.01, 1.0)])
    assert share(weights)[LIST] < 0.1
    assert plain(weights)[0] > 0.95
    assert weights[TOWERS] > 0


def test_one_period_is_searched_as_it_is():
    np.testing.assert_allclose(share(best(period([0.2, 0.8, 0.0]))), [0.2, 0.8, 0.0], atol=0.06)


def test_one_part_alone_is_taken_where_all_mixtures_mislead():
    """Each period rewards a mixture that fails in the other, and the last part in both."""

    def misled(number):
        def value(weights):
            mixed = share(weights)[number] > 0.3 and share(weights)[OTHER] > 0.3
            failed = share(weights)[1 - number] > 0.3 and share(weights)[OTHER] > 0.3
            return np.full(30, 0.9 * mixed - 0.9 * failed + 0.6 * share(weights)[OTHER])

        return value

    weights = best(misled(TOWERS), misled(LIST))
    np.testing.assert_allclose(share(weights), [0, 0, 1], atol=LITTLE)
    assert weights[TOWERS] > 0


@pytest.mark.parametrize("num", [1, 2, 3])
def test_no_period_is_measured_twice_with_the_same_weights(num):
    tried = [[] for _ in range(num)]

    def counting(number):
        return lambda weights: tried[number].append(weights) or np.full(30, share(weights)[number % 3])

    best(*(counting(number) for number in range(num)), first_places=[lambda weights: np.zeros(30)] * num)
    assert all(len(one) == len(set(one)) > 3 for one in tried)


def test_where_nothing_is_better_the_first_start_holds():
    flat = lambda weights: np.zeros(30)  # noqa: E731
    for objectives in ((flat,), (flat, flat)):
        assert best(*objectives, starts=[(0.5, 0.2, 0.1), (1.0, 1.0, 1.0)]) == (0.5, 0.2, 0.1)


def first_places(mixed, alone, noise=0.0):
    """Quality of the first places: one value where the last part leads, another one where a mixture does."""
    drawn = np.random.default_rng(0).normal(0, noise, 30)
    return lambda weights: alone + (mixed - alone + drawn) * (share(weights)[OTHER] < 0.9)


@pytest.mark.parametrize(
    ("mixed", "noise", "leads"),
    [(0.5, 0.0, False), (0.3, 0.0, True), (0.42, 0.5, True), (0.42, 0.1, False), (0.4, 0.0, False), (0.4, 0.1, True)],
)
def test_the_best_part_leads_where_a_later_period_could_make_the_mixture_worse(mixed, noise, leads):
    both = period([0.3, 0.3, 0.4])
    weights = best(both, both, first_places=[first_places(mixed, 0.4, noise)] * 2)
    assert (share(weights)[OTHER] > 0.9) == leads
    assert all(weights)  # the others order what it leaves equal


def test_halves_are_all_queries_once_and_few_are_not_halved():
    whole = lambda weights: np.arange(50.0) * weights[0]  # noqa: E731
    parts = [one((1.0,)) for one in halves(whole, 50)]
    assert sorted(np.concatenate(parts)) == list(range(50))
    assert [len(one) for one in parts] == [25, 25]
    assert halves(whole, 19) == [whole]
