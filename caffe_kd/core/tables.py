"""Tables as lines of text."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from .errors import printable_name


def text_table(
    rows: Iterable[Sequence[str]], right: Collection[int] | None = None, gap: str = "  "
) -> list[str]:
    """Return a line for each row, its columns as wide as their widest cell.

    Control characters in a cell are escaped, for names come from files.

    Args:
        rows: the cells, those of the head among them; a row may be shorter than others.
        right: the columns, from 0, whose cells stand at the right; None: all but the first.
        gap: what stands between columns.
    """
    cells = [[printable_name(cell) for cell in row] for row in rows]
    columns = max(map(len, cells), default=0)
    widths = [max(len(row[i]) for row in cells if i < len(row)) for i in range(columns)]
    flush = set(range(1, columns) if right is None else right)
    return [
        gap.join(
            cell.rjust(widths[i]) if i in flush else cell.ljust(widths[i])
            for i, cell in enumerate(row)
        ).rstrip()
        for row in cells
    ]
