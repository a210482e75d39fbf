"""Tables wider than the console, continued below with the first column repeated."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Column, Table

GAP = 2
"""cells between two columns"""


@dataclass(frozen=True)
class WideTable:
    """Renderable of a table that splits too many columns into parts, each behind the first column."""

    table: Table

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        first, *others = self.table.columns
        name = min(_width(console, first), options.max_width // 2)
        parts = list(_parts([_width(console, one) for one in others], options.max_width - name - GAP))
        for part in parts:
            yield self._part(name, [others[number] for number in part], title=part is parts[0])
        if self.table.caption is not None:
            yield self.table.caption

    def _part(self, name: int, columns: Sequence[Column], *, title: bool) -> Table:
        table, whole = Table(title=self.table.title if title else None), self.table
        for option in ("box", "title_justify", "pad_edge", "collapse_padding"):
            setattr(table, option, getattr(whole, option))
        table.add_column(whole.columns[0].header, overflow="fold", min_width=name)
        for one in columns:
            table.add_column(one.header, justify=one.justify, no_wrap=one.no_wrap, overflow=one.overflow)
        cells = [list(one.cells) for one in (whole.columns[0], *columns)]
        for number, row in enumerate(whole.rows):
            table.add_row(*(column[number] for column in cells), style=row.style, end_section=row.end_section)
        return table


def _width(console: Console, column: Column) -> int:
    return max(console.measure(one).maximum for one in (column.header, *column.cells))


def _parts(widths: Sequence[int], room: int) -> Iterator[list[int]]:
    """Yield column indices in order, as many per part as fit, at least one."""
    part: list[int] = []
    for number, width in enumerate(widths):
        if part and sum(widths[one] + GAP for one in part) + width + GAP > room:
            yield part
            part = []
        part.append(number)
    yield part
