"""Console table of a slate."""

from collections.abc import Mapping

from rich import box
from rich.table import Table
from rich.text import Text

from recsys.contracts import Slate


def slate_table(slate: Slate, names: Mapping[str, str]) -> Table:
    """Return a table of items with names (from `item_names`), probabilities and reasons."""
    objectives = list(dict.fromkeys(name for shown in slate.items for name in shown.probabilities))
    table = Table(title=Text(f"user {slate.user}"), box=box.SIMPLE_HEAD, title_justify="left", caption_justify="left")
    for heading in ("", "item", "utility", *objectives, "from", "rules"):
        number = heading in ("", "utility", *objectives)
        table.add_column(heading, justify="right" if number else "left", no_wrap=number, min_width=0 if number else 8)
    for position, shown in enumerate(slate.items, start=1):
        chances = (shown.probabilities.get(name) for name in objectives)
        figures = [f"{shown.utility:.3f}", *("" if chance is None else f"{chance:.3f}" for chance in chances)]
        reasons = (", ".join(shown.sources), ", ".join(f"{name}: {effect}" for name, effect in shown.rules.items()))
        table.add_row(*(Text(cell) for cell in (str(position), names[shown.item], *figures, *reasons)))
    degraded = f"degraded: {', '.join(slate.degraded)}; " if slate.degraded else ""
    table.caption = f"{degraded}bundle {slate.bundle}, rules {slate.rules}"
    return table
