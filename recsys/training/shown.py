"""How the ranker is told what was shown, so that it can learn from it: by columns of a log whose rows are what was shown
(`recsys.training.slates`), or by the impressions of the own event log (`recsys.training.impressions`).
"""

from collections.abc import Mapping
from dataclasses import dataclass

from recsys.data.splits import Split
from recsys.errors import ConfigError
from recsys.features.spec import Features

COLUMNS = ("position", "propensity")
IMPRESSIONS, WEIGHED = "impressions", "weighed_impressions"


@dataclass(frozen=True, kw_only=True)
class Shown:
    """Columns of the context; None where the log does not say, or where the data set has impressions."""

    position: str | None = None
    """place from 0"""
    propensity: str | None = None
    """chance to be shown"""
    impressions: bool = False
    """those of the data set are what was shown, not its interactions"""

    @staticmethod
    def of(told: Mapping[str, str | None] | str) -> "Shown":
        """ConfigError for anything but the names of impressions or these two columns."""
        if told in (IMPRESSIONS, WEIGHED):
            return Shown(impressions=True, position="position", propensity="propensity" if told == WEIGHED else None)
        if not isinstance(told, Mapping) or not told.keys() <= set(COLUMNS):
            found = list(told) if isinstance(told, Mapping) else told
            raise ConfigError(
                f"ranking.shown is {found}; give a mapping of {' and '.join(COLUMNS)} to columns, {IMPRESSIONS}, "
                f"{WEIGHED}, or null"
            )
        return Shown(position=told.get("position"), propensity=told.get("propensity"))

    def check(self, features: Features, split: Split) -> None:
        """ConfigError where a model would read what nobody knows before something is shown, or slates would be torn."""
        if split.cuts is None:
            raise ConfigError(
                f"ranking.shown reads whole slates, which a {split.name} tears; take protocol=global_time"
            )
        named = [] if self.impressions else [one for one in (self.position, self.propensity) if one is not None]
        if read := [column for column in named if column not in features.leave_out]:
            wanted = ",".join(sorted({*features.leave_out, *named}))
            raise ConfigError(
                f"ranking.shown: {read[0]} would be a feature, but nobody knows it before something is shown; "
                f"leave it out: features.leave_out=[{wanted}]"
            )
