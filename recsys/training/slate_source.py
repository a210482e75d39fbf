"""Configuration of logged slates to learn from: columns of a log whose rows are shown items (`recsys.training.slates`), or
the impressions of the own event log (`recsys.training.impressions`).
"""

from collections.abc import Mapping
from dataclasses import dataclass

from recsys.data.splits import Split
from recsys.errors import ConfigError
from recsys.features.spec import Features

COLUMNS = ("position", "propensity")
IMPRESSIONS, WEIGHED = "impressions", "weighed_impressions"


@dataclass(frozen=True, kw_only=True)
class SlateSource:
    """Columns of the context; None where the log has no such column, or where the data set has impressions."""

    position: str | None = None
    """from 0"""
    propensity: str | None = None
    """probability to be shown"""
    impressions: bool = False
    """slates are the impressions of the data set, not its interactions"""

    @staticmethod
    def of(value: Mapping[str, str | None] | str) -> "SlateSource":
        """Parse `ranking.sampling.shown`; raise ConfigError for anything but the names of impressions or these two columns."""
        if value in (IMPRESSIONS, WEIGHED):
            return SlateSource(
                impressions=True, position="position", propensity="propensity" if value == WEIGHED else None
            )
        if not isinstance(value, Mapping) or not value.keys() <= set(COLUMNS):
            found = list(value) if isinstance(value, Mapping) else value
            raise ConfigError(
                f"ranking.sampling.shown is {found}; give a mapping of {' and '.join(COLUMNS)} to columns, {IMPRESSIONS}, "
                f"{WEIGHED}, or null"
            )
        return SlateSource(position=value.get("position"), propensity=value.get("propensity"))

    def check(self, features: Features, split: Split) -> None:
        """Raise ConfigError where a feature is only known after an item is shown, or a split tears slates."""
        if split.cuts is None:
            raise ConfigError(
                f"ranking.sampling.shown reads whole slates, which a {split.name} tears; take protocol=global_time"
            )
        named = [] if self.impressions else [one for one in (self.position, self.propensity) if one is not None]
        if read := [column for column in named if column not in features.leave_out]:
            left_out = ",".join(sorted({*features.leave_out, *named}))
            raise ConfigError(
                f"ranking.sampling.shown: {read[0]} would be a feature, but nobody knows it before something is shown; "
                f"leave it out: features.leave_out=[{left_out}]"
            )
