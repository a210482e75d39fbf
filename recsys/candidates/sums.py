"""What histories say by stored neighbours, added up in one array over the catalogue that a query leaves as it found it.

Compiled by numba, one query at a time, so that a query gets the same bits in any batch. Neighbours of item i are
rows[starts[i]:starts[i + 1]] with their weights. Pairs of a query and a row stand query by query, in rising order.

Shapes: B queries, H history, N items that are known, Z sums that are not zero, P pairs, E events.
"""

import numpy as np

from recsys.contracts import PAD
from recsys.jit import compiled


@compiled()
def added(history, fading, starts, rows, weights):
    """history [B, H] and the weight [H] of its places -> starts [B + 1], rows [Z] and sums [Z] float32.

    The largest sum of a query is 1, unless none is above 0. What is not known says nothing.
    """
    num_items = len(starts) - 1
    bounds = np.zeros(len(history) + 1, np.int64)
    for b in range(len(history)):
        bounds[b + 1] = bounds[b]
        for item in history[b]:
            if 0 <= item < num_items:
                bounds[b + 1] += starts[item + 1] - starts[item]
    found, values = np.empty(bounds[-1], np.int64), np.empty(bounds[-1], np.float32)
    sums, met = np.zeros(num_items, np.float32), np.zeros(num_items, np.bool_)
    ends = np.zeros(len(history) + 1, np.int64)
    for b in range(len(history)):
        first = last = ends[b]
        for place in range(history.shape[1]):
            item = history[b, place]
            if not 0 <= item < num_items:
                continue
            for at in range(starts[item], starts[item + 1]):
                row = rows[at]
                if not met[row]:
                    met[row] = True
                    found[last] = row
                    last += 1
                sums[row] += fading[place] * weights[at]
        ends[b + 1] = _settled(found, values, sums, met, first, last)
    return ends, found[: ends[-1]], values[: ends[-1]]


@compiled()
def _settled(found, values, sums, met, first, last):
    """Move what is not zero to the front, divided by the largest, and clear the arrays; returns the end."""
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
        sums[row], met[row] = 0, False
    return end


@compiled()
def of_pairs(starts, rows, sums, num_items, query, row):
    """[P] float32: the sum of each pair, 0 where there is none."""
    found, known = np.zeros(len(query), np.float32), np.zeros(num_items, np.float32)
    begin = 0
    while begin < len(query):
        b, end = query[begin], begin
        for at in range(starts[b], starts[b + 1]):
            known[rows[at]] = sums[at]
        while end < len(query) and query[end] == b:
            if 0 <= row[end] < num_items:
                found[end] = known[row[end]]
            end += 1
        for at in range(starts[b], starts[b + 1]):
            known[rows[at]] = 0
        begin = end
    return found


@compiled()
def of_events(newest, starts, rows, weights, query, row):
    """newest [B, E] items -> [P, E] float32: what each of them alone says of the row of a pair, 0 for PAD and unknown."""
    num_items = len(starts) - 1
    found, known = np.zeros((len(query), newest.shape[1]), np.float32), np.zeros(num_items, np.float32)
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
                known[rows[at]] = weights[at]
            for pair in range(begin, end):
                if 0 <= row[pair] < num_items:
                    found[pair, event] = known[row[pair]]
            for at in range(starts[item], starts[item + 1]):
                known[rows[at]] = 0
        begin = end
    return found
