"""Splits of a log into periods; models for a period are fitted on earlier periods only.

Shapes: R rows of the interactions, in canonical order.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import numpy as np
import polars as pl

from recsys.data.dataset import Dataset
from recsys.data.description import ITEM, SPLIT, TIMESTAMP, USER
from recsys.errors import ConfigError, DataError, check_ranges

FIT, RANK, VALIDATION, TEST, LATER = range(5)
DAY_S = 86_400.0
Scope = Literal["period", "basket", "session"]
PERIODS = ("FIT", "RANK", "VALIDATION", "TEST", "LATER")


@dataclass(frozen=True, kw_only=True, eq=False)
class Split:
    """Assignment of every event to one period."""

    name: str
    """name in reports"""
    periods: np.ndarray
    """[R] int8: FIT for retrieval, RANK for the ranker, VALIDATION for choices, TEST for figures, LATER unused"""
    cuts: tuple[float, ...] | None
    """start times of RANK, VALIDATION, TEST and optionally LATER; None without common ones"""
    strict: bool
    """systems for TEST are not fitted on VALIDATION, which is only input"""
    horizon: float
    """time after a request within which a label counts, in timestamp units; infinite: until the period ends"""
    ordered: bool
    """a user's events of later periods come after those of earlier ones; else histories are sets"""
    scope: Scope = "period"
    """rows of a period that may be targets of a user: all, those of its first moment, the next basket, or the last event of its
    last session of several events"""
    gap_minutes: float = 0.0
    """a longer gap ends a session"""
    labelled: np.ndarray | None = None
    """[R] bool, rows whose outcomes are labels, see `equally_exposed`; None: all"""

    def outcomes(self, period: int) -> np.ndarray:
        """Return [R] bool, rows of a period whose outcomes are labels."""
        inside = self.periods == period
        return inside if self.labelled is None else inside & self.labelled

    def restated(self, probabilities: np.ndarray, period: int) -> np.ndarray:
        """Return probabilities [...] that were calibrated on VALIDATION as those of the labels of another period.

        Of pairs that a user has with chance p, a share k is known and a share e gives labels: an unknown pair is a positive
        with chance q = e p / (1 - k p). More known pairs in a period leave fewer others, so the same p means e' q / (e - d q)
        there, d the growth of k. Unchanged where periods have common times or labels read all events.
        """
        if self.labelled is None:
            return probabilities
        grown = float(self.known(period).mean() - self.known(VALIDATION).mean())
        before, share = (float(self.outcomes(one).mean()) for one in (VALIDATION, period))
        return np.minimum(share * probabilities / np.maximum(before - grown * probabilities, 1e-6), 1 - 1e-6)

    def known(self, period: int) -> np.ndarray:
        """Return [R] bool, rows on which a system for `period` may be fitted; the served system is for LATER.

        Without a common start of LATER, its events are only those without an evaluation query.
        """
        if period == LATER and self.cuts is None:
            return np.ones(len(self.periods), dtype=bool)
        return self.periods <= (RANK if self.strict and period == TEST else period - 1)

    def halves(self, dataset: Dataset) -> "tuple[Split, ...]":
        """Divide TEST into two splits with one half each.

        By time where it is common, else by users. Returns this split alone where a half would have no request whose full
        horizon is observed.
        """
        times = dataset.interactions[TIMESTAMP].to_numpy()
        test = self.periods == TEST
        if self.cuts is None:
            second = test & (_hashes(dataset.interactions[USER], "half") % 2 == 1)
            parts = tuple(replace(self, periods=self._without(test & half)) for half in (second, ~second))
        else:
            parts = self._at(float(times[test][test.sum() // 2]), times)
        usable = all((one.outcomes(TEST) & one.observed(times, TEST)).any() for one in parts)
        return parts if usable else (self,)

    def _at(self, middle: float, times: np.ndarray) -> "tuple[Split, ...]":
        """Cut TEST at a time, the start of the second half."""
        assert self.cuts is not None
        test, (rank, validation, start, *end) = self.periods == TEST, self.cuts
        earlier = np.where(test & (times < middle), VALIDATION, self.periods).astype(np.int8)
        return (
            replace(self, periods=self._without(test & (times >= middle)), cuts=(rank, validation, start, middle)),
            replace(self, periods=earlier, cuts=(rank, validation, middle, *end)),
        )

    def _without(self, rows: np.ndarray) -> np.ndarray:
        """Return the periods with some rows [R] bool moved to LATER."""
        return np.where(rows, LATER, self.periods).astype(np.int8)

    def end(self, period: int) -> float:
        """Return the exclusive end time of a period, RANK to TEST; infinite without one."""
        return np.inf if self.cuts is None or period >= len(self.cuts) else self.cuts[period]

    def observed(self, times: np.ndarray, period: int) -> np.ndarray:
        """Return [R] bool, request times [R] whose full horizon is observed in period and log (no right censoring)."""
        until = times + self.horizon
        return np.isinf(until) | (until < self.end(period)) & (until <= times.max())

    def check_observed(self, dataset: Dataset) -> None:
        """Raise DataError for a period without a request of fully observed horizon: it has no labels to learn from."""
        times = dataset.interactions[TIMESTAMP].to_numpy()
        if not self.horizon:
            raise DataError(
                f"{dataset.name}: all events of a period have one timestamp, so no request has an observed horizon; "
                "give protocol.horizon_days or larger shares"
            )
        for period in (RANK, VALIDATION, TEST):
            if not (self.outcomes(period) & self.observed(times, period)).any():
                raise DataError(
                    f"{dataset.name}: no event of the period {PERIODS[period]} of the {self.name} is followed by the whole "
                    "horizon before the period ends; give a shorter protocol.horizon_days or a larger share"
                )

    def targets(self, dataset: Dataset, period: int = TEST, showable: np.ndarray | None = None) -> np.ndarray:
        """Return [R] bool, the first positive in the scope of `period` of every (user, item) pair that may be shown.

        showable: [R] bool, pairs that may be shown; None: those without an event in an earlier period
        """
        rows = dataset.interactions.select(
            pl.col(USER, ITEM).cast(pl.Categorical),
            positive=pl.Series(self.rows_in_scope(dataset, period) & dataset.positives()),
            earlier=pl.Series(self.periods < period),
        )
        unseen = pl.struct(USER, ITEM).is_first_distinct() if self.scope == "session" else pl.lit(True)
        new = unseen & ~pl.col("earlier").any().over(USER, ITEM) if showable is None else pl.Series(showable)
        first = (
            rows.with_row_index("row")
            .filter(pl.col("positive") & new)
            .unique([USER, ITEM], keep="first", maintain_order=True)
        )
        targets = np.zeros(dataset.num_events, dtype=bool)
        targets[first["row"].to_numpy()] = True
        return targets

    def rows_in_scope(self, dataset: Dataset, period: int) -> np.ndarray:
        """Return [R] bool, rows of `period` that may be targets; a query is at the first of its user."""
        inside = self.periods == period
        if self.scope == "period":
            return inside
        log = dataset.interactions.select(USER, TIMESTAMP, inside=pl.Series(inside), row=pl.int_range(pl.len()))
        return inside & (_first_moments(log) if self.scope == "basket" else _session_ends(log, self.gap_minutes))

    def targets_sha256(self, dataset: Dataset, period: int = TEST, showable: np.ndarray | None = None) -> str:
        """Return the sha256 of the sorted (user, item) pairs of `targets`; reports with equal hashes are comparable."""
        is_target = pl.Series(self.targets(dataset, period, showable))
        pairs = dataset.interactions.select(USER, ITEM).filter(is_target).sort(USER, ITEM)
        text = "".join(f"{user}\0{item}\n" for user, item in pairs.iter_rows())
        return hashlib.sha256(text.encode()).hexdigest()


def equally_exposed(split: Split, dataset: Dataset, sizes: tuple[float, float], seed: int) -> Split:
    """Return a split without common times in which a probability means the same for VALIDATION and TEST.

    A period of twice the share holds twice the positives of a user. So labels of the larger period read a seeded sample of
    its events, as large as the smaller one: a request then has as many positives in both.

    sizes: of VALIDATION and TEST, in any unit
    """
    kept = np.ones(len(PERIODS))
    kept[[VALIDATION, TEST]] = min(sizes) / np.array(sizes)
    drawn = _pair_fractions(dataset.interactions[USER], dataset.interactions[ITEM], f"label {seed}")
    return replace(split, labelled=drawn < kept[split.periods])


def _first_moments(log: pl.DataFrame) -> np.ndarray:
    """Return [R] bool, rows at the time of their user's first row `inside`."""
    first = pl.col(TIMESTAMP).filter("inside").min().over(USER)
    return log.select((pl.col(TIMESTAMP) == first).fill_null(False)).to_series().to_numpy()


def _session_ends(log: pl.DataFrame, gap_minutes: float) -> np.ndarray:
    """Return [R] bool, the last row `inside` of each user that follows another event within the gap."""
    later = (pl.col(TIMESTAMP) - pl.col(TIMESTAMP).shift(1).over(USER)) <= 60 * gap_minutes
    last = pl.col("row").filter(later.fill_null(False) & pl.col("inside")).max().over(USER)
    return log.select((pl.col("row") == last).fill_null(False)).to_series().to_numpy()


def whole(dataset: Dataset) -> Split:
    """Return a split without held-out events."""
    return Split(
        name="no split",
        periods=np.zeros(dataset.num_events, np.int8),
        cuts=None,
        horizon=np.inf,
        strict=False,
        ordered=True,
    )


class Splitter(Protocol):
    """Protocol of split strategies."""

    def splits(self, dataset: Dataset) -> tuple[Split, ...]:
        """Return at least one split; the served model is trained on the last."""


@dataclass(frozen=True, kw_only=True)
class GlobalTime:
    """Split by global time: FIT | RANK | VALIDATION | TEST | LATER.

    The last `test` share of the events is cut into as many windows of equal size as there are `cuts`. Each of them is
    TEST once, with VALIDATION and RANK right before it and LATER after it. A share `later` is cut off the end of the log.
    Events of one timestamp stay together, in the later period. A label counts within `horizon_days` of the request, in all
    windows; None takes a quarter of the shortest of their periods. Raises
    ConfigError for a share or a horizon out of range.
    """

    rank: float
    validation: float
    test: float
    cuts: int
    later: float
    horizon_days: float | None

    def __post_init__(self) -> None:
        check_ranges("protocol", cuts=(self.cuts, 1, 1_000), later=(self.later, 0.0, 1.0))
        if self.horizon_days is not None:
            check_ranges("protocol", horizon_days=(self.horizon_days, 1e-6, 36_500.0))
        _check_shares(self.rank, self.validation, self.test, self.later)

    def splits(self, dataset: Dataset) -> tuple[Split, ...]:
        """Raises DataError when a period stays empty, users have no common timeline or there are no days to count."""
        if not dataset.description.timeline:
            raise DataError(
                f"{dataset.name} has no common time (order: {dataset.description.order}), "
                "a global time split needs one; choose protocol=leave_one_out or protocol=random"
            )
        if self.horizon_days is not None and not dataset.description.clock:
            raise DataError(
                f"{dataset.name} has no clock (order: {dataset.description.order}), so no days; leave protocol.horizon_days out"
            )
        times = dataset.interactions[TIMESTAMP].to_numpy()
        cuts = [self._cuts(times, window) for window in range(self.cuts)]
        horizon = self._horizon(cuts, times) if dataset.description.clock else self._quarter(cuts, times)
        return tuple(self._split(times, window, cuts[window], horizon) for window in range(self.cuts))

    def _cuts(self, times: np.ndarray, window: int) -> np.ndarray:
        behind = self.test * (self.cuts - 1 - window) / self.cuts
        return _cuts(times, (self.rank, self.validation, self.test / self.cuts, behind + self.later))

    def _split(self, times: np.ndarray, window: int, cuts: np.ndarray, horizon: float) -> Split:
        periods = np.searchsorted(cuts, times, side="right").astype(np.int8)
        _check_filled(periods, "events share too few timestamps; give more events, other fractions or fewer cuts")
        which = f" (window {window + 1} of {self.cuts})" if self.cuts > 1 else ""
        which += f" before the last {self.later:.0%}" if self.later else ""
        return Split(
            name=f"global time split{which}",
            periods=periods,
            cuts=tuple(cuts.tolist()),
            horizon=horizon,
            strict=False,
            ordered=True,
        )

    def _horizon(self, cuts: Sequence[np.ndarray], times: np.ndarray) -> float:
        """Return the horizon of all windows; DataError where it is finer than the timestamps: no label could be positive."""
        distinct = np.unique(times)
        finest = float(np.diff(distinct).min()) if len(distinct) > 1 else 0.0
        if self.horizon_days is None:
            return max(finest, self._quarter(cuts, times))
        if self.horizon_days * DAY_S < finest:
            raise DataError(
                f"protocol.horizon_days is {self.horizon_days:g}, but no two times of the log lie closer than "
                f"{finest / DAY_S:g} days; choose at least {finest / DAY_S:g}"
            )
        return self.horizon_days * DAY_S

    @staticmethod
    def _quarter(cuts: Sequence[np.ndarray], times: np.ndarray) -> float:
        """Return a quarter of the shortest period of all windows."""
        return min(float(np.diff([*one, times[-1]])[:TEST].min()) for one in cuts) / 4


@dataclass(frozen=True, kw_only=True)
class NextBasket:
    """Split by global time, as GlobalTime, for logs whose baskets have one time: a user's targets in a period are the items
    of its first basket there, and a label counts in the basket at the time of the request alone.

    Raises ConfigError for a share out of range, DataError for a data set without a clock.
    """

    rank: float
    validation: float
    test: float

    def __post_init__(self) -> None:
        _check_shares(self.rank, self.validation, self.test, 0.0)

    def splits(self, dataset: Dataset) -> tuple[Split, ...]:
        split = _split_with_clock(dataset, "baskets", self.rank, self.validation, self.test)
        times = np.unique(dataset.interactions[TIMESTAMP].to_numpy())
        within = float(np.diff(times).min()) / 2  # ends before the next basket of anybody
        return (replace(split, name="next basket by global time", horizon=within, scope="basket"),)


@dataclass(frozen=True, kw_only=True)
class NextInSession:
    """Split by global time, as GlobalTime: a user's target in a period is the last event of its last session there that has
    others before it, which the query knows; a label counts within the gap that ends a session.

    Raises ConfigError for a share or a gap out of range, DataError for a data set without a clock.
    """

    rank: float
    validation: float
    test: float
    gap_minutes: float

    def __post_init__(self) -> None:
        _check_shares(self.rank, self.validation, self.test, 0.0)
        check_ranges("protocol", gap_minutes=(self.gap_minutes, 1e-3, 525_600.0))

    def splits(self, dataset: Dataset) -> tuple[Split, ...]:
        split = _split_with_clock(dataset, "sessions", self.rank, self.validation, self.test)
        split = replace(split, name="next in session by global time", scope="session")
        return (replace(split, horizon=60 * self.gap_minutes, gap_minutes=self.gap_minutes),)


def _split_with_clock(dataset: Dataset, parts: str, rank: float, validation: float, test: float) -> Split:
    """Return the split by global time; DataError for data without a clock, which have no `parts`."""
    if not dataset.description.clock:
        raise DataError(
            f"{dataset.name} has no clock (order: {dataset.description.order}), so no {parts}; choose another protocol"
        )
    shares = {"rank": rank, "validation": validation, "test": test}
    (split,) = GlobalTime(**shares, cuts=1, later=0.0, horizon_days=None).splits(dataset)
    return split


@dataclass(frozen=True, kw_only=True)
class LeaveOneOut:
    """Strict leave-one-out in time order: the last positive of a user is TEST, the two before VALIDATION and RANK.

    Events that are no positives belong to the period of the next positive of their user, after the last one to LATER,
    so that no event of a user after a query is fitted on, and every period of a user ends with its positive.
    Users with fewer than `min_events` positives are all FIT.
    """

    min_events: int

    def __post_init__(self) -> None:
        value = self.min_events
        if isinstance(value, bool) or not isinstance(value, int) or value < 3:
            raise ConfigError(
                f"protocol.min_events is {value!r}; write a whole number of at least 3, one for each period held out"
            )

    def splits(self, dataset: Dataset) -> tuple[Split, ...]:
        """Raises DataError when a period stays empty or nothing says which event of a user is the last."""
        if dataset.description.order == "none":
            raise DataError(
                f"{dataset.name} has no order of events (order: none), leave-one-out needs one; choose protocol=random"
            )
        events = dataset.interactions.select(USER, positive=pl.Series(dataset.positives()).cast(pl.Int64))
        counted = events.select(
            ahead=pl.col("positive").cum_sum(reverse=True).over(USER), total=pl.col("positive").sum().over(USER)
        )
        ahead = counted["ahead"].to_numpy()
        held_out = np.clip(TEST + 1 - ahead, FIT, LATER)
        periods = np.where(counted["total"].to_numpy() < self.min_events, FIT, held_out).astype(np.int8)
        _check_filled(periods, f"too few positives a user; change min_events ({self.min_events}) or give more events")
        return (
            Split(name="leave one out split", periods=periods, cuts=None, horizon=np.inf, strict=True, ordered=True),
        )


@dataclass(frozen=True, kw_only=True)
class Random:
    """Random split of the literature, and the only one for data without any order: all events of a (user, item) pair
    belong to one period, chosen by a seeded hash of the pair, independent of the rest of the data set.

    Shares are of pairs. A query may know events later than its targets: figures compare only with figures of random
    splits.
    """

    rank: float
    validation: float
    test: float
    seed: int

    def __post_init__(self) -> None:
        _check_shares(self.rank, self.validation, self.test, 0.0)
        check_ranges("protocol", seed=(self.seed, 0, 2**63 - 1))

    def splits(self, dataset: Dataset) -> tuple[Split, ...]:
        """Raises DataError when a period stays empty."""
        starts = 1 - np.cumsum([self.test, self.validation, self.rank])[::-1]
        drawn = _pair_fractions(dataset.interactions[USER], dataset.interactions[ITEM], self.seed)
        periods = np.searchsorted(starts, drawn, side="right").astype(np.int8)
        _check_filled(periods, "too few pairs of user and item; give more events or other fractions")
        name = "random split (for comparison with the literature; not by time)"
        split = Split(name=name, periods=periods, cuts=None, horizon=np.inf, strict=False, ordered=False)
        return (equally_exposed(split, dataset, (self.validation, self.test), self.seed),)


@dataclass(frozen=True, kw_only=True)
class Predefined:
    """Split published with a data set, by a column or by files.

    RANK is taken out of train, and so is VALIDATION where none was published: the
    newest share of train by the common time, of each user where only the user's events are ordered, and a seeded hash
    of the (user, item) pair without any order. `strict`: systems for TEST are not fitted on VALIDATION.

    The periods have common cuts, and a horizon of a quarter of the shortest of them, where each begins after the end
    of the one before; else the horizon is the whole period. Histories are sets where some user has an
    event of test before one of train.
    """

    rank: float
    validation: float
    seed: int
    strict: bool

    def __post_init__(self) -> None:
        for key, value in {"rank": self.rank, "validation": self.validation}.items():
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1:
                raise ConfigError(f"protocol.{key} is {value!r}; write a fraction of train between 0 and 1")
        if self.rank + self.validation >= 1:
            raise ConfigError(
                f"protocol.rank + protocol.validation is {self.rank + self.validation:g}; keep the sum below 1"
            )
        if type(self.strict) is not bool:
            raise ConfigError(f"protocol.strict is {self.strict!r}; choose true or false")
        check_ranges("protocol", seed=(self.seed, 0, 2**63 - 1))

    def splits(self, dataset: Dataset) -> tuple[Split, ...]:
        """DataError for a data set without a split of its own, or one in which a period stays empty."""
        if not dataset.description.split:
            raise DataError(
                f"{dataset.name} says of no event whether it is train, validation or test; name a column as "
                "interactions.split, or interactions.files, or choose another protocol"
            )
        periods = self._periods(dataset)
        _check_filled(
            periods, "the split of the data set lacks it; give more events of train and test, or other shares"
        )
        cuts = _own_cuts(dataset, periods)
        times = dataset.interactions[TIMESTAMP].to_numpy()
        ordered = _rising(dataset, periods)
        split = Split(
            name=f"published split{'' if ordered else ' (not by time)'}",
            periods=periods,
            cuts=cuts,
            horizon=np.inf if cuts is None else float(np.diff([*cuts, times.max()]).min()) / 4,
            strict=self.strict,
            ordered=ordered,
        )
        if cuts is not None:
            return (split,)
        sizes = ((periods == VALIDATION).sum(), (periods == TEST).sum())
        return (equally_exposed(split, dataset, sizes, self.seed),)

    def _periods(self, dataset: Dataset) -> np.ndarray:
        parts = dataset.interactions[SPLIT].to_numpy()
        periods = np.select([parts == "test", parts == "validation"], [TEST, VALIDATION], FIT).astype(np.int8)
        train = periods == FIT
        drawn = self.validation if not (periods == VALIDATION).any() else 0.0
        newest = 1 - _train_fractions(dataset, train, self.seed)
        periods[np.flatnonzero(train)[newest <= drawn + self.rank]] = RANK
        periods[np.flatnonzero(train)[newest <= drawn]] = VALIDATION
        return periods


def _train_fractions(dataset: Dataset, train: np.ndarray, seed: int) -> np.ndarray:
    """Return [T] in [0, 1), the relative lateness of the T train events; equal for equal times."""
    events = dataset.interactions.filter(pl.Series(train))
    if dataset.description.order == "none":
        return _pair_fractions(events[USER], events[ITEM], seed)
    over = None if dataset.description.timeline else USER
    rank = pl.col(TIMESTAMP).rank("min")
    late = (rank - 0.5) / pl.len()
    return events.select(late if over is None else late.over(over)).to_series().to_numpy()


def _own_cuts(dataset: Dataset, periods: np.ndarray) -> tuple[float, ...] | None:
    """Return the start times of the periods, None where they overlap."""
    if not dataset.description.timeline:
        return None
    times = dataset.interactions[TIMESTAMP].to_numpy()
    starts = [float(times[periods == period].min()) for period in (RANK, VALIDATION, TEST)]
    ends = [float(times[periods == period].max()) for period in (FIT, RANK, VALIDATION)]
    return tuple(starts) if all(end < start for end, start in zip(ends, starts, strict=True)) else None


def _rising(dataset: Dataset, periods: np.ndarray) -> bool:
    """Return whether no user has an event of a later period before one of an earlier period."""
    if dataset.description.order == "none":
        return False
    before = pl.col("period").shift(1).over(USER)
    late = dataset.interactions.select(USER, period=pl.Series(periods)).select((pl.col("period") < before).any())
    return not late.item()


def _check_shares(rank: float, validation: float, test: float, later: float) -> None:
    for key, value in {"rank": rank, "validation": validation, "test": test}.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1:
            raise ConfigError(f"protocol.{key} is {value!r}; write a fraction of the events between 0 and 1")
    if (total := rank + validation + test + later) >= 1:
        names = "rank + validation + test" + (" + later" if later else "")
        raise ConfigError(f"{names} is {total:g}; keep the sum below 1, the rest is there to fit on")


def _check_filled(periods: np.ndarray, advice: str) -> None:
    counts = np.bincount(periods, minlength=len(PERIODS))
    for name, count in zip(PERIODS[:LATER], counts[:LATER], strict=True):
        if count == 0:
            raise DataError(f"the period {name} of the split is empty ({len(periods)} events in all): {advice}")


def _cuts(times: np.ndarray, shares: tuple[float, ...]) -> np.ndarray:
    """Return the start times of the last periods with these shares of the events; a last share of 0 has none."""
    ahead = np.array([sum(shares[period:]) for period in range(len(shares)) if shares[period]])
    starts = np.minimum(np.rint((1 - ahead) * len(times)).astype(np.int64), len(times) - 1)
    return times[starts]


def _pair_fractions(users: pl.Series, items: pl.Series, seed: int | str) -> np.ndarray:
    """Return [R] float64 in [0, 1), determined by (user, item, seed) alone.

    64-bit BLAKE2b of both ids, joined by the finaliser of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014).
    """
    mixed = _hashes(users, f"user {seed}") + np.uint64(0x9E3779B97F4A7C15) * _hashes(items, f"item {seed}")
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return ((mixed ^ (mixed >> np.uint64(31))) >> np.uint64(11)) * 2.0**-53


def _hashes(ids: pl.Series, salt: str) -> np.ndarray:
    """Return [R] uint64 BLAKE2b hashes with a salt."""
    unique = ids.unique()
    drawn = [hashlib.blake2b(one.encode(), digest_size=8, key=salt.encode()).digest() for one in unique]
    numbers = pl.Series([int.from_bytes(one, "little") for one in drawn], dtype=pl.UInt64)
    return ids.replace_strict(unique, numbers, return_dtype=pl.UInt64).to_numpy()
