"""Occlusion of ranker inputs: request tensors with one feature group or event removed, all variants in one batch.

Shapes: C candidates, L history, V variants.
"""

from collections.abc import Iterator

import numpy as np

from recsys.features.spec import IDENTITY, MISSING, UNKNOWN, FeatureSpec, TableSpec
from recsys.tensors import Arrays, part_name

EVERYTHING = "everything"


def occluded_variants(
    spec: FeatureSpec, arrays: Arrays, columns: np.ndarray, popular: np.ndarray
) -> tuple[tuple[str, ...], Arrays]:
    """Tensors of one request and its candidates, [1, ...] each -> names [V] and tensors [V, ...] of candidates `columns`.

    The first variant, EVERYTHING, is the request itself. Every other one lacks the group in its name: `popularity` replaces
    the scores of popularity lists (columns `popular` of the scores) by their mean over all candidates, `collaborative` all
    other scores; `item` hides the item ids, `content` the other item features; `profile`, `context` and `history` hide the
    ranker's own inputs from them, and "event 3" hides the third newest event. Retrieval scores depend on the history too;
    only `collaborative` hides them.
    """
    offered = arrays["candidate_ids"][0, :, 0] != MISSING
    mean = arrays["candidate_scores"][:, offered].mean(axis=1, keepdims=True)
    shown = {name: one[:, columns] if name.startswith("candidate_") else one for name, one in arrays.items()}
    named = [(EVERYTHING, shown), *_without_groups(spec, shown, mean, popular), *_without_events(shown)]
    together = {name: np.concatenate([own[name] for _, own in named]) for name in shown}
    return tuple(name for name, _ in named), together


def _without_groups(
    spec: FeatureSpec, arrays: Arrays, mean: np.ndarray, popular: np.ndarray
) -> Iterator[tuple[str, Arrays]]:
    own = np.isin(np.arange(mean.shape[-1]), popular)
    for name, lost in (("collaborative", ~own), ("popularity", own)):
        if lost.any():
            yield name, arrays | {"candidate_scores": np.where(lost, mean, arrays["candidate_scores"])}
    identity = _id_slot(spec.items)
    own = np.arange(arrays["candidate_ids"].shape[-1]) == identity
    yield "item", arrays | {"candidate_ids": np.where(own, UNKNOWN, arrays["candidate_ids"])}
    nothing = _missing_tensors(spec.items, "candidate", arrays)
    if set(nothing) - {"candidate_ids"} or len(own) > 1:
        kept = np.where(own, arrays["candidate_ids"], nothing["candidate_ids"])
        yield "content", arrays | nothing | {"candidate_ids": kept}
    for name, table in (("profile", spec.profile), ("context", spec.context)):
        if table.widths:
            yield name, arrays | _missing_tensors(table, name, arrays)
    yield "history", arrays | {name: np.zeros_like(one) for name, one in arrays.items() if name.startswith("history_")}


def _without_events(arrays: Arrays) -> Iterator[tuple[str, Arrays]]:
    """Hide one event after the other; its gap to the next event stays, so that older events keep their age."""
    present = np.flatnonzero(arrays["history_ids"][0, :, 0] != MISSING)
    read = [name for name in arrays if name.startswith("history_") and name != "history_gaps"]
    for number, column in enumerate(present[::-1], start=1):
        changed = {name: arrays[name].copy() for name in read}
        for array in changed.values():
            array[:, column] = 0
        yield f"event {number}", arrays | changed


def _missing_tensors(table: TableSpec, name: str, arrays: Arrays) -> Arrays:
    """Tensors of a table with all values missing."""
    names = [part_name(name, part) for part in table.widths]
    empty = {tensor: np.zeros_like(arrays[tensor]) for tensor in names if tensor in arrays}
    if (numbers := part_name(name, "numbers")) in empty:
        empty[numbers] += np.array(table.missing_numbers, dtype=np.float32)
    return empty


def _id_slot(table: TableSpec) -> int:
    start = 0
    for column in table.of_part("ids"):
        if column.name == IDENTITY:
            return start
        start += column.slots
    return -1
