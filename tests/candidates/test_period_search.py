"""Weights that hold in a period that did not choose them: lists that suit one period alone lose their weight."""

import numpy as np
import pytest

from recsys.candidates.weight_search import LITTLE, PeriodSearch

TOWERS, LIST, OTHER = 0, 1, 2


def share(weights):
    return np.array(weights) / sum(weights)


def period(wanted):
    """Highest where the weights have these ratios."""
    return lambda weights: 1 - float(np.square(share(weights) - wanted).sum())


def search(*objectives, starts=((1.0, 1.0, 1.0),)):
    return PeriodSearch(objectives=objectives, starts=starts, kept=[TOWERS], lists=[LIST])


def best(*objectives, **options):
    return search(*objectives, **options).best(lambda starts: starts)


def test_a_list_that_is_right_in_both_periods_keeps_its_weight():
    both = period([0.3, 0.5, 0.2])
    np.testing.assert_allclose(share(best(both, both)), [0.3, 0.5, 0.2], atol=0.06)


def test_a_list_that_is_right_in_one_period_alone_loses_its_weight():
    lucky, plain = period([0.1, 0.9, 0.0]), period([0.6, 0.0, 0.4])
    weights = best(lucky, plain, plain)
    assert weights[LIST] < max(best(lucky, lucky, plain)[LIST], 0.1 * max(weights))
    assert plain(weights) > 0.95
    assert weights[TOWERS] > 0


def test_one_period_is_searched_as_it_is():
    np.testing.assert_allclose(share(best(period([0.2, 0.8, 0.0]))), [0.2, 0.8, 0.0], atol=0.06)


def test_one_part_alone_is_taken_where_all_mixtures_mislead():
    """Each period rewards a mixture that fails in the other, and the last part in both."""

    def misled(number):
        def value(weights):
            mixed = share(weights)[number] > 0.3 and share(weights)[OTHER] > 0.3
            failed = share(weights)[1 - number] > 0.3 and share(weights)[OTHER] > 0.3
            return 0.9 * mixed - 0.9 * failed + 0.6 * float(share(weights)[OTHER])

        return value

    weights = best(misled(TOWERS), misled(LIST))
    assert weights == (LITTLE, 0.0, 1.0)


@pytest.mark.parametrize("num", [1, 2, 3])
def test_no_period_is_measured_twice_with_the_same_weights(num):
    tried = [[] for _ in range(num)]

    def counting(number):
        return lambda weights: tried[number].append(weights) or float(share(weights)[number % 3])

    best(*(counting(number) for number in range(num)))
    assert all(len(one) == len(set(one)) > 3 for one in tried)
