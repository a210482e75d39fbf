"""Outcomes of what was shown: the event log joined day by day, read once, into files that a replay makes again.

    impressions/2026-11-26.parquet    a row an item shown that day, with the credit of each outcome: null until its window ends
    events/2026-11-26.parquet         a row an event of that day, with the value of each outcome
    users/2026-11-26.parquet          sums per user and split (recsys.measurement.user_sums)
    state.json                        how far each partition of the log was read, and by which settings

The tables of a day follow from the records alone, not from when they came: read in one run or in many, with crashes between,
the files are the same, byte by byte (where they are encrypted: once decrypted, since each file has a salt of its own).
`state.json` is written last; what a crash cuts off is done again. Users in the list of forgotten ones beside the log are left
out, and removed from the tables by the next call.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from pathlib import Path

import polars as pl

from recsys.data.forgotten import FILE, FORGOTTEN, NOBODY, ForgottenUsers, read_forgotten
from recsys.data.sources.log_files import DAY, log_file_bytes, read_log_file
from recsys.errors import ConfigError, DataError
from recsys.measurement.attribution import CLOCK_SKEW_S, credits_of
from recsys.measurement.log_rows import (
    CREDIT,
    EVENT,
    EVENT_KEY,
    SHOWN,
    SHOWN_KEY,
    VALUE,
    events_of,
    impressions_of,
    once,
)
from recsys.measurement.new_rows import new_rows
from recsys.measurement.settings import DAY_S, MeasurementSettings
from recsys.measurement.user_sums import user_sums
from recsys.stores.atomic_files import locked, write_atomically

SCHEMA = 3
FOLDER = "measurement"
"""beside the folder of the event log"""
STATE = "state.json"
IMPRESSIONS, EVENTS, USERS = "impressions", "events", "users"
EPOCH = date(1970, 1, 1)
TOUCH = ("user", "item", "request_id", "shown_at")

Days = set[date]


@dataclass(frozen=True, kw_only=True)
class ReadState:
    """State of a measurement: the parts of the log that it has read."""

    settings: str
    """digest of the settings"""
    end: float = 0.0
    """time of the newest impression, unix seconds"""
    read: Mapping[str, int]
    """partition of the log -> last sequence that was read"""
    forgotten: str = ""
    """digest of the list of forgotten users that was applied"""

    def to_json(self) -> bytes:
        document = {"schema": SCHEMA, "settings": self.settings, "end": self.end, "forgotten": self.forgotten}
        return json.dumps(document | {"read": dict(sorted(self.read.items()))}, indent=1).encode()


@dataclass(frozen=True, kw_only=True)
class MeasuredLog:
    """Outcomes in a folder, of the event log in another one."""

    log: Path
    """holds impressions/day=<day>/*.parquet and feedback/day=<day>/*.parquet"""
    folder: Path
    settings: MeasurementSettings

    def update(self) -> int:
        """Read what the log holds beyond the last call and credit it; return the number of new rows.

        DataError for a log without impressions, ConfigError where the folder was measured by other settings.
        """
        with locked(self.folder):
            state = self._state()
            forgotten = self._forgotten()
            purged = set() if _digest(forgotten) == state.forgotten else self._purge(forgotten)
            read = dict(state.read)
            shown, num_shown = self._read(IMPRESSIONS, IMPRESSIONS, read, forgotten)
            came, num_came = self._read(EVENTS, "feedback", read, forgotten)
            if self.days(IMPRESSIONS) and not (shown or came or purged):
                return 0
            if not self.days(IMPRESSIONS):
                raise DataError(
                    f"{self.log} holds no impressions; name the folder that the event log is written to, live/events"
                )
            end = max([state.end, *(self._newest(day) for day in shown)])
            changed = shown | purged | self._before(came | purged) | self._unobserved(state.end)
            self._credit(sorted(changed & self.days(IMPRESSIONS)), end)
            after = replace(state, end=end, read=read, forgotten=_digest(forgotten))
            write_atomically(self.folder / STATE, after.to_json(), 0o600)
        return num_shown + num_came

    def days(self, kind: str) -> Days:
        """Return the days that have a table of this kind."""
        return {date.fromisoformat(file.stem) for file in (self.folder / kind).glob("????-??-??.parquet")}

    def table(self, kind: str, day: date, columns: Sequence[str] | None = None) -> pl.DataFrame:
        """Read the table of a day; DataError for a damaged one."""
        file = self._file(kind, day)
        try:
            return read_log_file(file, columns)
        except (pl.exceptions.PolarsError, OSError) as error:
            reason = str(error).strip().split("\n")[0]
            raise DataError(f"{file} cannot be read ({reason}); remove {self.folder} and measure again") from None

    @property
    def end(self) -> float:
        """Return the time of the newest impression, unix seconds."""
        return self._state().end

    def is_observed(self, day: date) -> bool:
        """Return whether the windows of all impressions of a day are over."""
        return self._last_moment(day) <= self.end

    def _newest(self, day: date) -> float:
        """Time of the newest impression of a day, unix seconds; 0 without any."""
        return float(self.table(IMPRESSIONS, day, ["shown_at"])["shown_at"].to_numpy().max(initial=0.0))

    def _file(self, kind: str, day: date) -> Path:
        return self.folder / kind / f"{day}.parquet"

    def _write(self, kind: str, day: date, table: pl.DataFrame) -> None:
        file = self._file(kind, day)
        write_atomically(file, log_file_bytes(table.rechunk(), file), 0o600)

    def _state(self) -> ReadState:
        file = self.folder / STATE
        if not file.exists():
            return ReadState(settings=self.settings.digest, read={})
        try:
            document = json.loads(file.read_bytes())
            if document.pop("schema") != SCHEMA:
                raise DataError(f"{file} is of another version; remove {self.folder} and measure again")
            state = ReadState(**document)
        except (ValueError, KeyError, TypeError, AttributeError):
            raise DataError(f"{file} was altered; remove {self.folder} and measure again") from None
        if state.settings != self.settings.digest:
            raise ConfigError(
                f"{self.folder} was measured by other settings; name another folder by --out, or remove this one"
            )
        return state

    def _forgotten(self) -> ForgottenUsers:
        beside = self.log.parent / FORGOTTEN
        return read_forgotten(beside) if (beside / FILE).exists() else NOBODY

    def _purge(self, forgotten: ForgottenUsers) -> Days:
        """Remove the rows of forgotten users; return the days whose sums had some, also those that a crash left."""
        sums = {day: self.table(USERS, day, ["user"]) for day in self.days(USERS)}
        found = {day for day, table in sums.items() if not forgotten.keeps(table, timed=False).all()}
        for kind, time in ((IMPRESSIONS, "shown_at"), (EVENTS, "at")):
            for day in self.days(kind):
                table = self.table(kind, day)
                kept = forgotten.keeps(table.rename({time: "timestamp"}), timed=True)
                if not kept.all():
                    self._write(kind, day, table.filter(kept))
                    found.add(day)
        return found

    def _read(self, kind: str, part: str, read: dict[str, int], forgotten: ForgottenUsers) -> tuple[Days, int]:
        """Merge new rows of the log into the tables of their days; return the days and the number of rows."""
        days, num_rows = set(), 0
        for folder in sorted((self.log / part).glob(f"{DAY}*")):
            name = f"{part}/{folder.name}"
            rows = new_rows(folder, read.get(name, -1), SHOWN if kind == IMPRESSIONS else EVENT)
            if rows is None:
                continue
            kept = rows.filter(forgotten.keeps(rows, timed=True))
            day = date.fromisoformat(folder.name.removeprefix(DAY))
            self._merge(kind, day, kept)
            read[name] = int(rows["sequence"].max())  # type: ignore[arg-type]
            days.add(day)
            num_rows += rows.height
        return days, num_rows

    def _merge(self, kind: str, day: date, rows: pl.DataFrame) -> None:
        make, key, time = (
            (impressions_of, SHOWN_KEY, "shown_at") if kind == IMPRESSIONS else (events_of, EVENT_KEY, "at")
        )
        table = make(rows, self.settings)
        if self._file(kind, day).exists():
            table = once(pl.concat([self.table(kind, day).select(table.columns), table]), key, time)
        self._write(kind, day, table)

    def _before(self, days: Iterable[date]) -> Days:
        """Days whose impressions events of these days may credit."""
        span = range(-1, int(self.settings.longest_window_s // DAY_S) + 2)
        return {day - timedelta(days=back) for day in days for back in span}

    def _unobserved(self, end: float) -> Days:
        """Days with impressions whose windows were not over at this time."""
        return {day for day in self.days(IMPRESSIONS) if self._last_moment(day) > end}

    def _last_moment(self, day: date) -> float:
        """Return when the windows of all impressions of a day are over, unix seconds."""
        return seconds_of(day + timedelta(days=1)) + self._wait_s

    @property
    def _wait_s(self) -> float:
        return self.settings.longest_window_s + CLOCK_SKEW_S

    def _credit(self, days: Sequence[date], end: float) -> None:
        """Write the credits and the sums of these days anew."""
        if not days:
            return
        events = self._events_around(days)
        touches = self._touches(days, events)
        credits = {
            name: credits_of(touches, _of_outcome(events, name), outcome)
            for name, outcome in self.settings.outcomes.items()
        }
        numbers = touches.select("number", "day", "row")
        by_day = {name: numbers.join(one, on="number") for name, one in credits.items()}
        for day in days:
            self._write_day(day, {name: one.filter(pl.col("day") == day) for name, one in by_day.items()}, end)

    def _events_around(self, days: Sequence[date]) -> pl.DataFrame:
        """Events that may credit impressions of these days, each once."""
        ahead = int(self.settings.longest_window_s // DAY_S) + 2
        around = {day + timedelta(days=step) for day in days for step in range(-2, ahead + 1)}
        found = [self.table(EVENTS, day) for day in sorted(around & self.days(EVENTS))]
        return (
            once(pl.concat(found), EVENT_KEY, "at") if found else events_of(pl.DataFrame(schema=EVENT), self.settings)
        )

    def _touches(self, days: Sequence[date], events: pl.DataFrame) -> pl.DataFrame:
        """Impressions of items that these events are of, numbered: those of the days, and those that share their credit."""
        pairs = events.select("user", "item").unique()
        around = sorted(self._before(_days_of(events)) | set(days))
        parts = []
        for day in around:
            if day in self.days(IMPRESSIONS):
                keys = self.table(IMPRESSIONS, day, TOUCH).with_row_index("row").with_columns(day=pl.lit(day))
                parts.append(keys.join(pairs, on=["user", "item"], how="semi", maintain_order="left"))
        return pl.concat(parts).with_row_index("number")

    def _write_day(self, day: date, credits: Mapping[str, pl.DataFrame], end: float) -> None:
        table = self.table(IMPRESSIONS, day)
        bare = table.select(name for name in table.columns if not name.startswith(CREDIT)).with_row_index("row")
        for name, credit in credits.items():
            observed = pl.col("shown_at") + self.settings.outcomes[name].window_s <= end
            amount = pl.when(observed).then(pl.col("credit").fill_null(0.0))
            joined = bare.join(credit.select("row", "credit"), on="row", how="left", maintain_order="left")
            bare = joined.with_columns(amount.alias(CREDIT + name)).drop("credit")
        credited = bare.drop("row")
        self._write(IMPRESSIONS, day, credited)
        self._write(USERS, day, user_sums(credited, self.settings))


def seconds_of(day: date) -> float:
    """Return the unix seconds of midnight, UTC, at which a day begins."""
    return (day - EPOCH).days * DAY_S


def _digest(forgotten: ForgottenUsers) -> str:
    """Return a digest of the list, empty for nobody."""
    text = json.dumps(dict(forgotten.times), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16] if forgotten.times else ""


def _days_of(events: pl.DataFrame) -> Days:
    numbers = (events["at"] // DAY_S).unique().to_list()
    return {EPOCH + timedelta(days=int(number)) for number in numbers}


def _of_outcome(events: pl.DataFrame, name: str) -> pl.DataFrame:
    return events.select("user", "item", "request_id", "at", value=VALUE + name)
