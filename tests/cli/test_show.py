"""A slate as people read it."""

from rich.console import Console

from recsys.cli.show import slate_table
from recsys.contracts import Slate, SlateItem


def test_what_no_source_offered_has_no_chances_wherever_it_stands() -> None:
    ranked = SlateItem(item="a", utility=0.5, sources=("t",), probabilities={"watch": 0.25, "like": 0.125})
    pinned = SlateItem(item="b", utility=0.0, sources=(), probabilities={}, rules={"house": "pinned"})
    for items in ((ranked, pinned), (pinned, ranked), (pinned,), ()):
        slate = Slate(user="u", request_id="r", items=items, degraded=(), bundle="B", rules="R")
        console = Console(record=True, width=120)
        console.print(slate_table(slate, {"a": "An a", "b": "A b"}))
        text = console.export_text()
        assert ("0.250" in text, "watch" in text) == (ranked in items, ranked in items)
        assert ("house: pinned" in text) == (pinned in items)
