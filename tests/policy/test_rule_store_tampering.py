"""Whatever is altered in a rule store gives itself away, in one sentence."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from recsys.errors import ConfigError
from recsys.policy.rules.audit import HEAD, LOG, RuleVersion
from recsys.policy.rules.store import RuleStore


def published(store: RuleStore, *years: int) -> None:
    for year in years:
        head = store.head()
        text = f"rules: [{{name: old, must: 'not year < {year}'}}]"
        store.publish(text, who="ann", why=f"try {year}", expected=head.version if head else None, report={"of": year})


@pytest.fixture
def store(tmp_path: Path) -> RuleStore:
    return RuleStore(tmp_path / "rules")


def flipped(lines: list[bytes]) -> list[bytes]:
    return [lines[0], lines[1].replace(b"try 1960", b"try 1961"), *lines[2:]]


def signed(lines: list[bytes]) -> list[bytes]:
    """The second line altered, with a sha256 that fits it."""
    document = json.loads(lines[1])
    del document["sha256"]
    return [lines[0], RuleVersion(**{**document, "who": "eve"}).line, *lines[2:]]


@pytest.mark.parametrize(
    ("alter", "sentence"),
    [
        (flipped, r"log\.jsonl, line 2 was altered: its content does not have its sha256"),
        (signed, r"log\.jsonl, line 3 does not follow the line before it"),
        (lambda lines: signed(lines[:2]), "HEAD names entry 3"),
        (
            lambda lines: [lines[0], lines[2]],
            r"log\.jsonl, line 2 has the number 3: lines are missing or changed places",
        ),
        (lambda lines: lines[1:], "line 1 has the number 2"),
        (lambda lines: lines[:2], r"log\.jsonl ends with entry 2, HEAD names entry 3"),
        (lambda lines: [], "ends with entry 0, HEAD names entry 3"),
        (lambda lines: [lines[1], lines[0], lines[2]], "line 1 has the number 2"),
        (lambda lines: [lines[0], b"{}", lines[2]], "line 2 was altered: it is no entry"),
        (lambda lines: [lines[0], b"\xff", lines[2]], "line 2 was altered: it is no entry"),
        (lambda lines: [lines[0], b"[]", lines[2]], "line 2 was altered: it is no entry"),
        (lambda lines: [lines[0], lines[1].replace(b":", b": ", 1), lines[2]], "line 2 was altered"),
    ],
)
def test_an_altered_log_is_detected(
    store: RuleStore, alter: Callable[[list[bytes]], list[bytes]], sentence: str
) -> None:
    published(store, 1950, 1960, 1970)
    log = store.folder / LOG
    log.write_bytes(b"".join(line + b"\n" for line in alter(log.read_bytes().splitlines())))
    with pytest.raises(ConfigError, match=sentence):
        store.verify()
    with pytest.raises(ConfigError, match=sentence):
        store.rollback(who="bob", why="on top of it")


def test_the_last_line_altered_and_signed_does_not_fit_head(store: RuleStore) -> None:
    published(store, 1950, 1960)
    log = store.folder / LOG
    log.write_bytes(b"".join(line + b"\n" for line in signed(log.read_bytes().splitlines())))
    with pytest.raises(ConfigError, match=r"HEAD does not fit entry 2 of log\.jsonl"):
        store.verify()


@pytest.mark.parametrize("bits", range(8))
def test_a_changed_bit_anywhere_in_the_log_is_detected(store: RuleStore, bits: int) -> None:
    published(store, 1950, 1960)
    log = store.folder / LOG
    whole = log.read_bytes()
    for place in range(bits, len(whole), 8):
        log.write_bytes(whole[:place] + bytes([whole[place] ^ (1 << bits)]) + whole[place + 1 :])
        with pytest.raises(ConfigError):
            store.verify()


def test_altered_removed_and_exchanged_files_are_detected(store: RuleStore) -> None:
    published(store, 1950, 1960)
    entry = store.history()[0]
    for name in (f"objects/{entry.text}.yaml", f"reports/{entry.report}.json"):
        file = store.folder / name
        kept = file.read_bytes()
        file.unlink()
        with pytest.raises(ConfigError, match=f"{name} cannot be read"):
            store.verify()
        file.write_bytes(kept + b"\n")
        with pytest.raises(ConfigError, match=f"{name} was altered: its sha256 is"):
            store.verify()
        file.write_bytes(kept)
    assert len(store.verify()) == 2


@pytest.mark.parametrize(
    ("head", "sentence"),
    [
        ("", "HEAD was altered: it does not name an entry"),
        ('{"number": 2}', "HEAD was altered"),
        ('{"number":"2","version":"","text":"","sha256":""}', "HEAD was altered"),
        ('{"number":2,"version":"","text":"","sha256":""}', "HEAD does not fit entry 2"),
        ('{"number":9,"version":"","text":"","sha256":""}', "ends with entry 3, HEAD names entry 9"),
        (None, r"HEAD names entry 0, log\.jsonl goes on to entry 3"),
    ],
)
def test_an_altered_head_is_detected(store: RuleStore, head: str | None, sentence: str) -> None:
    published(store, 1950, 1960, 1970)
    (store.folder / HEAD).unlink()
    if head is not None:
        (store.folder / HEAD).write_text(head)
    with pytest.raises(ConfigError, match=sentence):
        store.verify()
