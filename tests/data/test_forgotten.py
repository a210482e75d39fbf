"""Forgotten users are in no later training, and the list of them names nobody."""

import asyncio
import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.contracts import Event, Query, Slate, SlateItem
from recsys.data.forgotten import ForgottenList
from recsys.data.pseudonyms import pseudonym
from recsys.data.sources.event_log import EventLogSource
from recsys.data.sources.tables import Tables
from recsys.errors import ConfigError, DataError
from serving.events.parquet import ParquetSink
from serving.events.record import Record, StoredRecord

KEY = b"k" * 32
TABLES = """\
interactions: {file: events.csv, user: user, item: item, timestamp: at, actions: {rating: number}}
items: {file: items.csv, item: item, columns: {title: text}}
users: {file: users.csv, user: user, columns: {age: number}}
objectives: {watch: "1"}
target: watch
"""


@pytest.fixture
def live(tmp_path: Path) -> Path:
    """A live folder with a key."""
    live = tmp_path / "live"
    live.mkdir()
    (live / "identity.key").write_text(KEY.hex())
    (live / "identity.key").chmod(0o600)
    return live


@pytest.fixture
def description(tmp_path: Path) -> str:
    (tmp_path / "shop.yaml").write_text(TABLES)
    (tmp_path / "events.csv").write_text("user,item,at,rating\nu,a,100,5\nv,b,200,1\nu,c,300,2\nw,c,400,2\n")
    (tmp_path / "items.csv").write_text("item,title\na,A\nb,B\nc,C\n")
    (tmp_path / "users.csv").write_text("user,age\nu,30\nv,40\nw,50\n")
    return str(tmp_path / "shop.yaml")


def without(description: str, folder: Path) -> Tables:
    """The same tables, whose description names a list."""
    own = Path(description).with_name("own.yaml")
    own.write_text(f"{Path(description).read_text()}forgotten: {os.path.relpath(folder, own.parent)}\n")
    return Tables(description=str(own))


def forget(live: Path, user: str, at: float) -> ForgottenList:
    found = ForgottenList(live / "forgotten", KEY)
    found.add([user], at, ())
    return found


def test_the_list_holds_no_id_and_is_its_owners(live: Path) -> None:
    forgotten = forget(live, "susan", 100.0)
    text = forgotten.file.read_text()
    assert "susan" not in text
    assert pseudonym(KEY, "susan") not in text
    assert forgotten.file.stat().st_mode & 0o077 == 0
    assert forgotten.file.parent.stat().st_mode & 0o077 == 0


@given(st.text(min_size=1), st.text(min_size=1))
def test_every_form_of_an_id_is_known_and_no_other_user(
    tmp_path_factory: pytest.TempPathFactory, user: str, other: str
) -> None:
    """Raw, hashed, and hashed again: a seed of pseudonyms is hashed a second time."""
    forgotten = ForgottenList(tmp_path_factory.mktemp("list"), KEY)
    forgotten.add([user], 7.0, ())
    stored = pseudonym(KEY, user)
    assert [forgotten.current().time_of(one) for one in (user, stored, pseudonym(KEY, stored))] == [7.0] * 3
    assert other == user or forgotten.current().time_of(other) is None


def test_a_pseudonym_that_is_forgotten_takes_its_raw_id_along(live: Path) -> None:
    """An operator who has only the log knows no other."""
    assert forget(live, pseudonym(KEY, "susan"), 5.0).current().drops("susan", 5.0)


def test_a_later_record_stays_and_a_second_forgetting_reaches_further(live: Path) -> None:
    forgotten = forget(live, "u", 100.0)
    assert [forgotten.current().drops("u", at) for at in (99.0, 100.0, 100.5)] == [True, True, False]
    forgotten.add(["u"], 50.0, ())
    assert forgotten.current().time_of("u") == 100.0
    forgotten.add(["u"], 200.0, ())
    assert forgotten.current().time_of("u") == 200.0


def test_a_part_closes_only_what_it_has_seen(live: Path) -> None:
    one = ForgottenList(live / "forgotten", KEY)
    one.add(["u"], 1.0, ("states", "log"))
    seen = one.current().open_in("states")
    one.add(["u"], 2.0, ("states", "log"))
    one.close("states", seen)
    assert one.current().is_open("u", "states"), "it was forgotten again after the part had looked"
    one.close("states", one.current().open_in("states"))
    assert [one.current().is_open("u", part) for part in ("states", "log")] == [False, True]


def test_another_process_sees_a_change_and_survives_a_damaged_file(live: Path) -> None:
    reader = ForgottenList(live / "forgotten", KEY)
    assert len(reader.current()) == 0
    forget(live, "u", 1.0)
    assert reader.current().drops("u", 1.0)
    kept = reader.file.read_bytes()
    reader.file.unlink()
    assert reader.current().drops("u", 1.0)
    reader.add(["v"], 1.0, ())
    assert len(json.loads(reader.file.read_bytes())["users"]) == 6, "a lost list is written again"
    reader.file.write_bytes(kept[:5])
    assert reader.current().drops("u", 1.0)
    with pytest.raises(DataError, match="cannot be read as the list of forgotten users"):
        ForgottenList(live / "forgotten", KEY)


def test_tables_leave_forgotten_users_out(live: Path, description: str) -> None:
    forget(live, "u", 150.0)
    forget(live, "v", 500.0)
    dataset = without(description, live / "forgotten").load()
    assert dataset.interactions.rows() == [("u", "c", 300.0, 2.0), ("w", "c", 400.0, 2.0)]
    assert dict(dataset.users.rows()) == {"u": None, "w": 50.0}, "who came back has no profile of before"
    assert "forgotten users that were left out: 1, of their events 2" in dataset.notes
    assert dataset.num_items == 3


def test_without_time_nothing_is_later(live: Path, description: str) -> None:
    forget(live, "u", 1.0)
    Path(description).write_text(Path(description).read_text().replace("timestamp: at", "order: file"))
    dataset = without(description, live / "forgotten").load()
    assert set(dataset.interactions["user"]) == {"v", "w"}


def test_a_log_of_nobody_else_and_a_list_without_its_key_are_refused(live: Path, description: str) -> None:
    for user in "uvw":
        forget(live, user, 1e9)
    tables = without(description, live / "forgotten")
    with pytest.raises(DataError, match="no event is left without the forgotten users"):
        tables.load()
    (live / "identity.key").unlink()
    with pytest.raises(ConfigError, match="restore the key of the user ids"):
        tables.load()
    with pytest.raises(DataError, match="does not exist; name the folder"):
        without(description, live).load()
    odd = Path(description).with_name("odd.yaml")
    odd.write_text(Path(description).read_text() + "forgotten: 3\n")
    with pytest.raises(DataError, match="forgotten is 3; write the folder"):
        Tables(description=str(odd)).load()


@pytest.mark.parametrize("hashed", [False, True], ids=["raw", "hashed"])
def test_the_event_log_leaves_forgotten_users_out_of_history_log_and_impressions(
    live: Path, description: str, hashed: bool
) -> None:
    stored = pseudonym(KEY, "u") if hashed else "u"
    item = SlateItem(item="a", utility=0.5, sources=("t",), probabilities={})
    records = [
        Record.feedback("1", Event(user=stored, item="a", timestamp=500.0)),
        Record.feedback("2", Event(user="x", item="a", timestamp=510.0)),
        Record.feedback("3", Event(user=stored, item="b", timestamp=700.0)),
        *(
            Record.impression(
                Query(user=user, now=now, request_id=f"{user}{now}"),
                Slate(user=user, request_id=f"{user}{now}", items=(item,), degraded=(), bundle="B", rules="R"),
                "recommend",
            )
            for user, now in ((stored, 500.0), ("x", 510.0), (stored, 700.0))
        ),
    ]
    sink = ParquetSink(live / "events")
    asyncio.run(sink.write([StoredRecord(sequence=n, record=record) for n, record in enumerate(records)]))
    sink.close()
    forget(live, "u", 600.0)
    source = EventLogSource(folder=str(live / "events"), description=description, history=True, wait_s=0.0)
    dataset = source.load()
    assert [row[:3] for row in dataset.interactions.rows()] == [
        ("v", "b", 200.0),
        ("w", "c", 400.0),
        ("x", "a", 510.0),
        (stored, "b", 700.0),
    ]
    assert dataset.impressions is not None
    assert dataset.impressions.select("user", "timestamp").rows() == [("x", 510.0), (stored, 700.0)]
    assert json.loads(dataset.impressions["query"][0])["user"] == "x"
