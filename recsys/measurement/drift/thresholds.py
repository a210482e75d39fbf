"""Thresholds of all drift figures, in one YAML file; what it does not name has the values here.

errors: 4.0
windows: [1, 24, 72, 168]
limits: {missing: 0.005, psi: 0.2}
columns: {profile.age: {wasserstein: 0.3}}
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scipy.stats import norm

from recsys.data.description import refuse_unknown
from recsys.data.documents import mapping_of, read_document
from recsys.errors import ConfigError, DataError, check_ranges

LIMITS: Mapping[str, float | None] = {
    "missing": 0.005,
    "unknown": 0.02,
    "psi": 0.2,
    "js": None,
    "wasserstein": 0.1,
    "degraded": 0.05,
    "stale_state": 0.02,
    "top_item": 0.05,
    "drop": 0.05,
    "miscalibration": None,
    "log_age_h": 1.0,
    "items_age_h": None,
    "model_age_d": None,
}
"""figure -> the value above which it is an alarm; None for one that is shown alone"""
MOST_CHANCE = 0.01
"""probability, at most, that chance alone exceeds the limit of a window"""
OF_COLUMNS = ("missing", "unknown", "psi", "js", "wasserstein")


@dataclass(frozen=True, kw_only=True)
class Thresholds:
    """When a figure is an alarm."""

    errors: float = 4.0
    """standard errors by which a figure of one hour has to exceed its limit; for longer windows see `errors_of`"""
    windows: Sequence[int] = (1, 24, 72, 168)
    """hours up to the newest request"""
    fewest: int = 200
    """requests of a window, at least, for figures of columns"""
    alpha: float = 0.001
    """of the sequential test of a drop: a false alarm in 1 / alpha days on average"""
    weeks: int = 4
    """weeks before a day with whose same weekdays it is compared"""
    limits: Mapping[str, float | None] = field(default_factory=dict)
    columns: Mapping[str, Mapping[str, float | None]] = field(default_factory=dict)
    """column -> limits of its own"""

    def __post_init__(self) -> None:
        check_ranges(
            "thresholds",
            errors=(self.errors, 0.0, 100.0),
            fewest=(self.fewest, 1, 10**9),
            alpha=(self.alpha, 1e-9, 0.5),
            weeks=(self.weeks, 2, 52),
        )
        for number, hours in enumerate(self.windows):
            check_ranges("thresholds", **{f"windows[{number}]": (hours, 1, 24 * 366)})
        _check_limits("limits", self.limits, tuple(LIMITS))
        for name, limits in self.columns.items():
            _check_limits(f"columns.{name}", limits, OF_COLUMNS)

    def limit(self, figure: str, column: str | None = None) -> float | None:
        """Return the limit of a figure, None for none."""
        own = self.columns.get(column or "", {})
        return own[figure] if figure in own else self.limits.get(figure, LIMITS[figure])

    def errors_of(self, hours: int) -> float:
        """Return the standard errors that a figure of a window needs: as many false alarms a month in windows of any length,
        since windows of a week that share nothing are a 168th of those of an hour.
        """
        return float(norm.isf(min(hours * norm.sf(self.errors), MOST_CHANCE)))

    @staticmethod
    def read(path: Path) -> "Thresholds":
        """Read a YAML file; ConfigError names the key."""
        try:
            document = mapping_of("the file", read_document(path))
            refuse_unknown("the file", document, ("errors", "windows", "fewest", "alpha", "weeks", "limits", "columns"))
            return Thresholds(**{name: _read(name, value) for name, value in document.items()})
        except (ConfigError, DataError) as error:
            text = str(error)
            raise ConfigError(text if text.startswith(str(path)) else f"{path}: {text}") from None


def _read(name: str, value: Any) -> Any:
    if name == "columns":
        return {column: mapping_of(f"columns.{column}", own) for column, own in mapping_of(name, value).items()}
    if name == "limits":
        return mapping_of(name, value)
    if name == "windows" and not (isinstance(value, list) and all(type(one) is int for one in value)):
        raise ConfigError(f"windows is {value!r}; write a list of hours, for instance [1, 24]")
    if name != "windows" and (isinstance(value, bool) or not isinstance(value, int | float)):
        raise ConfigError(f"{name} is {value!r}; write a number")
    return value


def _check_limits(where: str, limits: Mapping[str, Any], known: Sequence[str]) -> None:
    refuse_unknown(where, limits, known)
    for name, limit in limits.items():
        if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int | float) or limit < 0):
            raise ConfigError(f"{where}.{name} is {limit!r}; write a number of at least 0, or null for no alarm")
