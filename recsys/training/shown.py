"""Which columns of a log say how something was shown, so that the ranker can learn from it (`recsys.training.slates`)."""

from collections.abc import Mapping
from dataclasses import dataclass

from recsys.data.splits import Split
from recsys.errors import ConfigError
from recsys.features.spec import Features


@dataclass(frozen=True, kw_only=True)
class Shown:
    """Columns of the context; None where the log does not say."""

    position: str | None = None
    """place from 0"""
    propensity: str | None = None
    """chance to be shown"""

    @staticmethod
    def of(columns: Mapping[str, str | None]) -> "Shown":
        """ConfigError for anything but these two."""
        known = tuple(Shown.__dataclass_fields__)
        if not isinstance(columns, Mapping) or not columns.keys() <= set(known):
            told = list(columns) if isinstance(columns, Mapping) else columns
            raise ConfigError(f"ranking.shown is {told}; give a mapping of {' and '.join(known)} to columns, or null")
        return Shown(**columns)

    def check(self, features: Features, split: Split) -> None:
        """ConfigError where a model would read what nobody knows before something is shown, or slates would be torn."""
        if split.cuts is None:
            raise ConfigError(
                f"ranking.shown reads whole slates, which a {split.name} tears; take protocol=global_time"
            )
        named = [column for column in (self.position, self.propensity) if column is not None]
        if read := [column for column in named if column not in features.leave_out]:
            wanted = ",".join(sorted({*features.leave_out, *named}))
            raise ConfigError(
                f"ranking.shown: {read[0]} would be a feature, but nobody knows it before something is shown; "
                f"leave it out: features.leave_out=[{wanted}]"
            )
