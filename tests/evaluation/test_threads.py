"""Work that is done side by side."""

import threading

import pytest
import torch

from recsys.replay.threads import map_in_threads


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_answers_come_in_the_order_of_the_batches_and_side_by_side(two_threads):
    together = threading.Barrier(2, timeout=60)

    def answer(batch):
        together.wait()  # breaks unless another batch is answered at the same time
        return batch * 10, torch.get_num_threads()

    assert map_in_threads(answer, [1, 2, 3, 4]) == [(10, 1), (20, 1), (30, 1), (40, 1)]
    assert torch.get_num_threads() == 2


def test_an_error_of_a_batch_is_raised_and_the_threads_are_given_back(two_threads):
    with pytest.raises(ZeroDivisionError):
        map_in_threads(lambda batch: 1 / batch, [1, 0])
    assert torch.get_num_threads() == 2
    assert map_in_threads(str, []) == []
