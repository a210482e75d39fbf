"""Compressed memory of a long history: of the events that left the history, how many each item had and when the last one was.

A history holds the newest events one by one, at constant cost; whatever is older stays as one entry an item. Candidate
sources read both as one list of items, the same in training, evaluation and serving (`remembered_rows`). It is the memory of
user behaviour sequences (MIMN, Pi et al. 2019) without weights: counts and times.

Shapes: B queries, E entries of all memories, M rows of all lists.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

import numpy as np

from recsys.contracts import Event
from recsys.features.spec import FeatureSpec
from recsys.features.state import History, fold_out

Memory = Mapping[str, tuple[float, ...]]
"""item -> number of its events that left the history, and timestamp of the last one"""
NO_MEMORY: Memory = {}
MAX_ITEMS = 500
"""items of a memory, those with the newest events"""
MAX_REPEATS = 8
"""times, at most, that an item of the memory stands in the list that sources read"""


def fold_with_memory(
    history: History, memory: Memory, events: Sequence[Event], spec: FeatureSpec
) -> tuple[History, Memory]:
    """Return history and memory after more events, the same as after one of them at a time."""
    if len(history) + len(events) <= spec.history_length or _in_order(history, events):
        history, left = fold_out(history, events, spec)
        return history, remember(memory, left)
    for event in events:
        history, left = fold_out(history, (event,), spec)
        memory = remember(memory, left)
    return history, memory


def _in_order(history: History, events: Sequence[Event]) -> bool:
    times = [event.timestamp for event in (*history[-1:], *events)]
    return all(before <= after for before, after in pairwise(times))


def remember(memory: Memory, left: Iterable[Event]) -> Memory:
    """Return the memory after events that left the history, in canonical order.

    An event that is not later than the last one of its item in the memory is not counted, so that seeds and logs that
    hold the same events may be read in any number.
    """
    kept = dict(memory)
    for event in left:
        count, last = kept.get(event.item, (0.0, -np.inf))
        if event.timestamp > last:
            kept[event.item] = (count + 1.0, event.timestamp)
            if len(kept) > MAX_ITEMS:
                kept = newest_items(kept)
    return kept


def united(one: Memory, other: Memory) -> Memory:
    """Return the union of two memories of one user, of each item the larger count and the later time."""
    both = {**one, **other}
    for item in one.keys() & other.keys():
        both[item] = tuple(map(max, one[item], other[item]))
    return newest_items(both)


def newest_items(memory: Memory) -> dict[str, tuple[float, ...]]:
    """Return the MAX_ITEMS items with the newest events, by time, then by id."""
    order = sorted(memory, key=lambda item: (memory[item][1], item))
    return {item: memory[item] for item in order[-MAX_ITEMS:]}


def remembered_rows(
    queries: np.ndarray, rows: np.ndarray, counts: np.ndarray, last: np.ndarray, ties: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the lists that sources read of memories: (query [M], catalogue row [M]), of each query the oldest first.

    queries, rows, counts, last, ties: [E] of the entries, of which several may be of one item and are then one: the query's
    index, the catalogue row, the number of events, the time of the last one, the rank of the item in the order of `item_key`.
    An item stands at the time of its last event, as often as it has events, at most MAX_REPEATS times.
    """
    order = np.lexsort((last, rows, queries))
    queries, rows, counts, last, ties = (one[order] for one in (queries, rows, counts, last, ties))
    ends = np.flatnonzero(np.append((np.diff(queries) != 0) | (np.diff(rows) != 0), len(rows) > 0))
    counts = np.diff(np.cumsum(counts)[ends], prepend=0)
    order = ends[np.lexsort((ties[ends], last[ends], queries[ends]))]
    counts = counts[np.searchsorted(ends, order)]
    behind = np.searchsorted(queries[order], queries[order], side="right") - np.arange(len(order))
    counts = np.where(behind <= MAX_ITEMS, np.minimum(counts, MAX_REPEATS), 0).astype(np.int64)
    return np.repeat(queries[order], counts), np.repeat(rows[order], counts)
