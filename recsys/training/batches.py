"""Index batches of an epoch: a function of seed and epoch, so that an interrupted epoch goes on with the batches left."""

from abc import abstractmethod
from collections.abc import Iterator
from itertools import islice

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler


class BatchSampler(Sampler[np.ndarray]):
    """Index batches of the current epoch, without those that were trained on before an interruption."""

    def __init__(self) -> None:
        self.epoch = 0
        self.process, self.num_processes = 0, 1
        self.trained = 0
        """batches of the next epoch that are left out"""

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch; Lightning calls this, also after a resume."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[np.ndarray]:
        trained, self.trained = self.trained, 0
        yield from map(self._own, islice(self.batches(), trained, None))

    def _own(self, batch: np.ndarray) -> np.ndarray:
        """Return the part of this process; one of fewer examples than processes has some of them twice."""
        if len(batch) < self.num_processes:
            return batch[[self.process % len(batch)]]
        return batch[self.process :: self.num_processes]

    @abstractmethod
    def batches(self) -> Iterator[np.ndarray]:
        """Yield all batches of the epoch."""

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of batches, the same in every epoch, as Lightning requires."""


class ShuffledBatchSampler(BatchSampler):
    """Index batches of a fresh permutation every epoch."""

    def __init__(self, size: int, batch_size: int, seed: int) -> None:
        super().__init__()
        self.size = size
        self.batch_size = batch_size
        self.seed = seed

    def __len__(self) -> int:
        return -(-self.size // self.batch_size)

    def batches(self) -> Iterator[np.ndarray]:
        order = self._permutation()
        yield from (order[start : start + self.batch_size] for start in range(0, self.size, self.batch_size))

    def _permutation(self) -> np.ndarray:
        return np.random.default_rng((self.seed, self.epoch)).permutation(self.size)


class LengthBucketSampler(ShuffledBatchSampler):
    """Batches of examples of similar length, whose lengths sum to about `batch_size`, so that little is padding.

    Examples are sorted by length within random windows of the permutation; the batches come in a random order.
    """

    SHUFFLE_WINDOW = 50
    """batches in a window"""

    def __init__(self, sizes: np.ndarray, batch_size: int, seed: int) -> None:
        super().__init__(len(sizes), batch_size, seed)
        self.sizes = sizes
        self.examples = max(1, round(self.SHUFFLE_WINDOW * batch_size / float(sizes.mean())))

    def __len__(self) -> int:
        return sum(self._num(min(self.examples, self.size - start)) for start in range(0, self.size, self.examples))

    def batches(self) -> Iterator[np.ndarray]:
        order = self._permutation()
        windows = (order[start : start + self.examples] for start in range(0, self.size, self.examples))
        batches = [batch for window in windows for batch in self._cut(window)]
        yield from (
            batches[number] for number in np.random.default_rng((self.seed, self.epoch, 1)).permutation(len(batches))
        )

    def _num(self, examples: int) -> int:
        """Number of batches of a window of so many examples."""
        return min(examples, max(1, round(self.SHUFFLE_WINDOW * examples / self.examples)))

    def _cut(self, window: np.ndarray) -> list[np.ndarray]:
        """Split a window into batches of about equal total length, none of them empty."""
        window = window[np.argsort(self.sizes[window], kind="stable")]
        num, totals = self._num(len(window)), np.cumsum(self.sizes[window])
        numbers = np.arange(1, num)
        ends = np.searchsorted(totals, totals[-1] * numbers / num, side="right")
        # ends - numbers may not fall, and batch n ends after at least n examples with enough left for those behind it
        ends = np.maximum.accumulate(np.maximum(ends - numbers, 0)) + numbers
        return np.split(window, np.minimum(ends, len(window) - num + numbers))


class RepeatedBatchSampler(BatchSampler):
    """The first batches of another sampler in every epoch: a model that cannot learn them by heart has a defect."""

    def __init__(self, sampler: BatchSampler, num: int) -> None:
        super().__init__()
        self.kept = list(islice(sampler.batches(), num))

    def __len__(self) -> int:
        return len(self.kept)

    def batches(self) -> Iterator[np.ndarray]:
        yield from self.kept


class IndexDataset(Dataset[torch.Tensor]):
    """Identity data set of index batches: the tensors live on the device, with the task."""

    def __getitem__(self, index: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(index)


def index_batches(size: int, batch_size: int, seed: int) -> DataLoader:
    return _loader(ShuffledBatchSampler(size, batch_size, seed))


def length_bucket_batches(sizes: np.ndarray, batch_size: int, seed: int) -> DataLoader:
    return _loader(LengthBucketSampler(sizes, batch_size, seed))


def repeated_batches(loader: DataLoader, num: int) -> DataLoader:
    """Load the first batches of a loader in every epoch."""
    assert isinstance(loader.sampler, BatchSampler)
    return _loader(RepeatedBatchSampler(loader.sampler, num))


def _loader(sampler: BatchSampler) -> DataLoader:
    return DataLoader(IndexDataset(), sampler=sampler, batch_size=None)
