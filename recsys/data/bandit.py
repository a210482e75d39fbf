"""A bandit's log: what was shown, with which probability, and what came of it.

Shapes: R rounds, F numbers of a context, A actions.
"""

from dataclasses import dataclass, replace

import numpy as np

from recsys.errors import DataError


@dataclass(frozen=True, kw_only=True)
class BanditLog:
    """One row a shown action; raises DataError for shapes, kinds and values that no such log can have."""

    contexts: np.ndarray
    """[R, F] numbers known before the action was drawn"""
    actions: np.ndarray
    """[R] whole numbers from 0"""
    rewards: np.ndarray
    """[R]"""
    propensities: np.ndarray
    """[R] probability of the action that was shown, when it was drawn; in (0, 1]"""
    positions: np.ndarray
    """[R] whole numbers from 0: where it was shown"""
    num_actions: int
    possible: np.ndarray | None = None
    """[R, A] or [1, A]: which actions the logging policy could show; None is every action"""

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

    def rows(self, places: np.ndarray) -> "BanditLog":
        """The rounds at places [N], which may come several times."""
        possible = self.possible
        return replace(
            self,
            **{name: getattr(self, name)[places] for name in ("contexts", *_COLUMNS)},
            possible=possible[places] if possible is not None and len(possible) == len(self) else possible,
        )


_COLUMNS = ("actions", "rewards", "propensities", "positions")


def check_numbers(name: str, values: np.ndarray) -> None:
    """DataError for what is no number or not finite."""
    if values.dtype.kind not in "fiub":
        raise DataError(f"{name} is of type {values.dtype}; wanted numbers")
    if not (finite := np.isfinite(values)).all():
        place = first_place(~finite)
        raise DataError(f"{name} is {values[place]} in round {place[0]}; wanted finite numbers: fill or drop it")


def first_place(marked: np.ndarray) -> tuple[int, ...]:
    """Of the first true one."""
    return tuple(int(one) for one in np.unravel_index(int(marked.argmax()), marked.shape))


def _check_shapes(log: BanditLog) -> None:
    rounds = len(log.actions)
    if not rounds:
        raise DataError("the log has no rounds; wanted at least one")
    wanted = dict.fromkeys(_COLUMNS, (rounds,)) | {"contexts": (rounds, *log.contexts.shape[1:2])}
    for name, shape in wanted.items():
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
