"""`python -m recsys items` as people type it."""

import re
from pathlib import Path
from typing import Any

import pytest

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def called(tmp_path: Path, typed: Any, trained: Any, capsys: Capture) -> Any:
    """Run `items <command>` on a store of its own; returns exit code, output and errors."""

    def called(command: str, *arguments: object) -> tuple[int | str | None, str, str]:
        bundle = () if command == "history" else ("--bundle", trained.bundle.path)
        code = typed("items", command, *arguments, "--store", tmp_path / "items", *bundle)
        return (code, *capsys.readouterr())

    return called


def test_what_is_put_is_shown_with_what_was_known_before(trained: Any, called: Any) -> None:
    known = trained.dataset.items.row(0, named=True)
    code, printed, _ = called("put", known["item"], "price=9.5", "category=sport", "--who", "ann", "--withdraw")
    assert (code, "an item of the bundle" in printed) == (0, True)
    code, printed, _ = called("show", known["item"])
    shown = dict(re.findall(r"^(\w+) +(.*)$", printed, flags=re.MULTILINE))
    assert (code, shown["price"], shown["category"], shown["withdrawn"]) == (0, "9.5", '"sport"', "true")
    assert known["title"] in shown["title"]


def test_a_new_item_is_said_to_be_new_and_stands_in_the_history(called: Any) -> None:
    assert "a new item" in called("put", "brand new", 'tags=["a", "b"]', "title=A robot", "--who", "ann")[1]
    assert "an item of the bundle" not in called("put", "brand new", "price=null", "--who", "bob")[1]
    code, printed, _ = called("history", "--item", "brand new")
    rows = [line.split() for line in printed.splitlines() if "brand new" in line]
    assert (code, [row[0] for row in rows]) == (0, ["2", "1"])
    assert "price=null" in printed
    assert 'title="A robot"' in printed


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("title=1984", '"1984"'),
        ("title=true", '"true"'),
        ('title="1984"', '"1984"'),
        ("title=null", "null"),
        ("price=1984", "1984"),
        ("tags=1984", '["1984"]'),
        ('tags=[1984, 1e3, "b"]', '["1984", "1e3", "b"]'),
        ("tags=drama", '["drama"]'),
        ("tags=null", "null"),
    ],
)
def test_the_kind_of_the_column_says_how_its_value_is_read(called: Any, text: str, kept: str) -> None:
    code, _, said = called("put", "b1", text, "--who", "ann")
    assert code == 0, said
    name = text.partition("=")[0]
    assert re.findall(rf"^{name} +(.*)$", called("show", "b1")[1], flags=re.MULTILINE) == [kept]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("put", "a", "prise=1"), "unknown column 'prise'; did you mean 'price'?"),
        (("put", "a", "price=cheap"), "price is 'cheap'; give a finite number"),
        (("put", "a", "price"), "'price' is no column=value"),
        (("show", "never heard of"), "has an item 'never heard of'"),
    ],
)
def test_mistakes_end_with_one_sentence_and_write_nothing(
    called: Any, tmp_path: Path, arguments: tuple[str, ...], sentence: str
) -> None:
    code, _, said = called(*arguments)
    assert (code, sentence in said) == (2, True), said
    assert not (tmp_path / "items").exists()


def test_recommend_shows_a_withdrawn_item_no_more_and_a_new_one_by_its_title(
    trained: Any, called: Any, typed: Any, capsys: Capture, tmp_path: Path
) -> None:
    user = trained.dataset.users["user"][0]
    ask = ("recommend", "--bundle", trained.bundle.path, "--user", user, "--items", tmp_path / "items")
    assert typed(*ask, "--why-not", "nothing") == 0
    first = re.findall(r"^ +1 +(.*?)  ", capsys.readouterr().out, flags=re.MULTILINE)[0]
    (item,) = trained.dataset.items.filter(title=first)["item"].to_list()
    called("put", item, "--withdraw", "--who", "ann")
    assert typed(*ask, "--why-not", item) == 0
    assert f"'{item}' was withdrawn" in capsys.readouterr().out
