"""Kernels that sum the stored neighbours of a history in one dense array over the catalogue.

Compiled by numba, one query at a time, so that a query gets the same bits in any batch. Each query resets only the cells
that it wrote: clearing N cells a query would cost more than the sums. Neighbours of item i are rows[starts[i]:starts[i + 1]]
with their weights. Pairs of a query and a row are sorted by query.

Shapes: B queries, H history, N items with stored neighbours, Z sums that are not zero, P pairs, E events.
"""

import numpy as np

from recsys.contracts import PAD
from recsys.jit import compiled


@compiled()
def sum_neighbours(history, event_weights, starts, rows, weights):
    """history [B, H] and the weights [H] of its events -> starts [B + 1], rows [Z] and sums [Z] float32.

    The largest sum of a query is 1, unless none is above 0. PAD and items from N on are skipped: the latter came to the
    catalogue after the fit.
    """
    num_items = len(starts) - 1
    # an upper bound of Z, so that the outputs are allocated once: no query has more sums than neighbours
    bounds = np.zeros(len(history) + 1, np.int64)
    for b in range(len(history)):
        bounds[b + 1] = bounds[b]
        for item in history[b]:
            if 0 <= item < num_items:
                bounds[b + 1] += starts[item + 1] - starts[item]
    found, values = np.empty(bounds[-1], np.int64), np.empty(bounds[-1], np.float32)
    sums, touched = np.zeros(num_items, np.float32), np.zeros(num_items, np.bool_)
    ends = np.zeros(len(history) + 1, np.int64)
    for b in range(len(history)):
        first = last = ends[b]
        for event in range(history.shape[1]):
            item = history[b, event]
            if not 0 <= item < num_items:
                continue
            for at in range(starts[item], starts[item + 1]):
                row = rows[at]
                if not touched[row]:
                    touched[row] = True
                    found[last] = row
                    last += 1
                sums[row] += event_weights[event] * weights[at]
        ends[b + 1] = _compact_and_reset(found, values, sums, touched, first, last)
    return ends, found[: ends[-1]], values[: ends[-1]]


@compiled()
def _compact_and_reset(found, values, sums, touched, first, last):
    """Drop zero sums from found[first:last], divide the others by the largest, reset both arrays; return the new end."""
    largest = np.float32(0)
    for at in range(first, last):
        largest = max(largest, sums[found[at]])
    unit = largest if largest > 0 else np.float32(1)
    end = first
    for at in range(first, last):
        row = found[at]
        if sums[row] != 0:
            found[end], values[end] = row, sums[row] / unit
            end += 1
        sums[row], touched[row] = 0, False
    return end


@compiled()
def pair_scores(starts, rows, sums, num_items, query, row):
    """starts [B + 1], rows [Z] and sums [Z] as above -> [P] float32: the sum of each pair, 0 where there is none."""
    found, dense = np.zeros(len(query), np.float32), np.zeros(num_items, np.float32)
    begin = 0
    while begin < len(query):
        b, end = query[begin], begin
        for at in range(starts[b], starts[b + 1]):
            dense[rows[at]] = sums[at]
        while end < len(query) and query[end] == b:
            if 0 <= row[end] < num_items:
                found[end] = dense[row[end]]
            end += 1
        for at in range(starts[b], starts[b + 1]):
            dense[rows[at]] = 0
        begin = end
    return found


@compiled()
def event_scores(newest, starts, rows, weights, query, row):
    """newest [B, E] items -> [P, E] float32: weight of a pair's row as neighbour of each, 0 for PAD and items from N on."""
    num_items = len(starts) - 1
    found, dense = np.zeros((len(query), newest.shape[1]), np.float32), np.zeros(num_items, np.float32)
    begin = 0
    while begin < len(query):
        b, end = query[begin], begin
        while end < len(query) and query[end] == b:
            end += 1
        for event in range(newest.shape[1]):
            item = newest[b, event]
            if item == PAD or item >= num_items:
                continue
            for at in range(starts[item], starts[item + 1]):
                dense[rows[at]] = weights[at]
            for pair in range(begin, end):
                if 0 <= row[pair] < num_items:
                    found[pair, event] = dense[row[pair]]
            for at in range(starts[item], starts[item + 1]):
                dense[rows[at]] = 0
        begin = end
    return found
