"""Bandit log: shown actions with propensities, positions and rewards.

Shapes: R rounds, F numbers of a context, A actions.
"""

from dataclasses import dataclass, replace

import numpy as np

from recsys.errors import DataError


@dataclass(frozen=True, kw_only=True)
class BanditLog:
    """Log with one row per shown action; raises DataError for invalid shapes, types and values."""

    contexts: np.ndarray
    """[R, F] numbers known before the action was drawn"""
    actions: np.ndarray
    """[R] whole numbers from 0"""
    rewards: np.ndarray
    """[R]"""
    propensities: np.ndarray
    """[R] probability of the shown action when it was drawn; in (0, 1]"""
    positions: np.ndarray
    """[R] whole numbers from 0, position of the action"""
    num_actions: int
    possible: np.ndarray | None = None
    """[R, A] or [1, A] bool, actions that the logging policy could show; None is every action"""

    def __post_init__(self) -> None:
        _check_shapes(self)
        for name in ("contexts", "rewards", "propensities"):
            check_numbers(name, getattr(self, name))
        for name in ("actions", "positions"):
            _check_whole(name, getattr(self, name))
        if (greatest := int(self.actions.max())) >= self.num_actions:
            raise DataError(f"actions holds {greatest}, but there are {self.num_actions}; number them from 0")
        _check_possible(self)
        odd = np.flatnonzero((self.propensities <= 0) | (self.propensities > 1))
        if len(odd):
            raise DataError(
                f"propensities is {self.propensities[odd[0]]:g} in round {odd[0]}; wanted the probability of the action "
                "that was shown, above 0 and at most 1: leave the round out or log its propensity"
            )

    def __len__(self) -> int:
        return len(self.actions)

    @property
    def num_positions(self) -> int:
        return int(self.positions.max()) + 1

    def rows(self, rounds: np.ndarray) -> "BanditLog":
        """Return the rounds at indices [N], which may repeat."""
        possible = self.possible
        return replace(
            self,
            **{name: getattr(self, name)[rounds] for name in ("contexts", *_COLUMNS)},
            possible=possible[rounds] if possible is not None and len(possible) == len(self) else possible,
        )


_COLUMNS = ("actions", "rewards", "propensities", "positions")


def check_numbers(name: str, values: np.ndarray) -> None:
    """Raise DataError for values that are not numeric or not finite."""
    if values.dtype.kind not in "fiub":
        raise DataError(f"{name} is of type {values.dtype}; wanted numbers")
    if not (finite := np.isfinite(values)).all():
        index = first_true(~finite)
        raise DataError(f"{name} is {values[index]} in round {index[0]}; wanted finite numbers: fill or drop it")


def first_true(marked: np.ndarray) -> tuple[int, ...]:
    """Return the index of the first true element."""
    return tuple(int(one) for one in np.unravel_index(int(marked.argmax()), marked.shape))


def _check_shapes(log: BanditLog) -> None:
    rounds = len(log.actions)
    if not rounds:
        raise DataError("the log has no rounds; wanted at least one")
    shapes = dict.fromkeys(_COLUMNS, (rounds,)) | {"contexts": (rounds, *log.contexts.shape[1:2])}
    for name, shape in shapes.items():
        if (found := getattr(log, name).shape) != shape or (name == "contexts" and len(found) != 2):
            raise DataError(f"{name} has the shape {found}, actions {log.actions.shape}; give one row a round")


def _check_possible(log: BanditLog) -> None:
    if log.possible is None:
        return
    if log.possible.dtype != bool or log.possible.shape not in [(one, log.num_actions) for one in (1, len(log))]:
        raise DataError(
            f"possible is {log.possible.dtype} of shape {log.possible.shape}; wanted true or false for each of "
            f"{log.num_actions} actions, once or a round"
        )
    shown = np.broadcast_to(log.possible, (len(log), log.num_actions))[np.arange(len(log)), log.actions]
    if not shown.all():
        row = int(shown.argmin())
        raise DataError(
            f"possible rules out action {log.actions[row]} in round {row}, where it was shown; correct one of them"
        )


def _check_whole(name: str, values: np.ndarray) -> None:
    if values.dtype.kind not in "iu":
        raise DataError(f"{name} is of type {values.dtype}; wanted whole numbers from 0")
    if (least := int(values.min())) < 0:
        raise DataError(f"{name} holds {least}; wanted whole numbers from 0")
